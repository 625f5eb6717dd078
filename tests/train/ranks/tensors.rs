//! Gradients that are added up as tensors, as on a GPU: tried on the CPU, by a communicator that asks for them so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Tensor};
use headstart::train::communicator::{self, Alone, Communicator, Sum};
use headstart::{Device, Result};

use super::hub::{Member, together};
use super::{CASES, PICTURES, end, run};
use crate::common;
use crate::common::numbers::values;

/// A rank that takes gradients as tensors wherever they lie, and counts how often.
#[derive(Debug)]
struct Tensors(Member, AtomicUsize);

impl Communicator for Tensors {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn begin_sum(&self, buffer: Vec<f32>) -> Result<Sum> {
        self.0.begin_sum(buffer)
    }

    fn sums_tensors(&self, _: &Device) -> bool {
        true
    }

    fn sum_tensors(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.sum_tensors(tensors)
    }

    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>> {
        self.0.broadcast(bytes, from)
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.0.gather(bytes)
    }
}

#[test]
fn gradients_added_up_as_tensors_train_to_the_bits_of_buffers() {
    let (_folder, dataset) = common::colours(PICTURES);
    for case in &CASES {
        let (name, model, trainer) = case;
        let expected = run(case, 3, &dataset);
        let found = together(3, |member| {
            let ranks = Arc::new(Tensors(member, AtomicUsize::new(0)));
            // As the command has it: a communicator of whatever kind.
            let any: Arc<dyn Communicator> = ranks.clone();
            let end = end(model(), trainer().communicator(any), &dataset).unwrap();
            (end, ranks.1.load(Ordering::Relaxed))
        });
        let steps = expected[0].losses.len();
        for (rank, ((found, sums), expected)) in found.iter().zip(&expected).enumerate() {
            assert!(found.bits == expected.bits, "{name}, rank {rank}: weights");
            assert!(
                found.losses == expected.losses,
                "{name}, rank {rank}: losses"
            );
            assert_eq!(*sums, steps, "{name}, rank {rank}: once a step");
        }
    }
}

#[test]
fn tensors_of_all_shapes_and_types_are_added_up_as_f32() {
    let sums = together(3, |member| {
        let number = member.rank() as f32 + 1.0;
        let grid = Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
        let grid = (grid * f64::from(number)).unwrap();
        let tensors = [
            grid.clone(),
            grid.t().unwrap(),
            grid.narrow(1, 1, 2).unwrap(),
            grid.to_dtype(DType::BF16).unwrap(),
            grid.to_dtype(DType::F16).unwrap(),
            Tensor::new(number, &Device::Cpu).unwrap(),
            Tensor::zeros((0, 2), DType::F32, &Device::Cpu).unwrap(),
        ];
        let sums = member.sum_tensors(&tensors).unwrap();
        let sums = sums.into_iter().zip(&tensors).map(|(sum, tensor)| {
            assert_eq!(sum.dims(), tensor.dims());
            assert_eq!(sum.dtype(), DType::F32);
            values(&sum)
        });
        sums.collect::<Vec<_>>()
    });
    // 1 + 2 + 3 times what the first rank has.
    let all = [6.0, 12.0, 18.0, 24.0, 30.0, 36.0];
    let expected = [
        all.to_vec(),
        vec![6.0, 24.0, 12.0, 30.0, 18.0, 36.0],
        vec![12.0, 18.0, 30.0, 36.0],
        all.to_vec(),
        all.to_vec(),
        vec![6.0],
        vec![],
    ];
    assert!(sums.iter().all(|sums| sums[..] == expected), "{sums:?}");
}

#[test]
fn only_what_is_not_on_the_cpu_goes_as_tensors_by_itself() {
    assert!(!Alone.sums_tensors(&Device::Cpu));
    let ranks = communicator::on_device(Arc::new(Alone), &Device::Cpu).unwrap();
    assert_eq!((ranks.rank(), ranks.size()), (0, 1));
    assert!(!ranks.sums_tensors(&Device::Cpu));
}
