//! A check that a base of one's own keeps the rules of [`Backbone`].

use candle_core::{DType, Tensor, Var};

use super::backbone::{Backbone, Mode};
use crate::error::{Error, Result};

/// How far features may differ between two ways of computing them, relative to their root mean square.
const TOLERANCE: f64 = 1e-4;

/// Puts a base through the rules of [`Backbone`] with three images of `height` × `width` pixels, and leaves its flags
/// as they were. For tests of bases of one's own:
///
/// ```
/// use candle_core::Device;
/// use headstart::model::check_backbone;
/// use headstart::{ConvBase, Weights};
///
/// let mut base = ConvBase::resnet18(Weights::Random { seed: 1 }, &Device::Cpu)?;
/// check_backbone(&mut base, 32, 32)?;
/// # Ok::<(), headstart::Error>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`] that names the first rule that does not hold; what the base itself says.
pub fn check_backbone<B: Backbone>(base: &mut B, height: usize, width: usize) -> Result<()> {
    let flags = base.blocks();
    let outcome = check(base, height, width);
    for (index, block) in flags.iter().enumerate() {
        base.set_trainable(index, block.trainable)?;
    }
    outcome
}

fn check<B: Backbone>(base: &mut B, height: usize, width: usize) -> Result<()> {
    let images = images(base, height, width)?;
    names_are_distinct(base)?;
    features_have_their_shape(base, &images, height, width)?;
    parts_make_the_whole(base, &images)?;
    pictures_stand_alone(base, &images)?;
    let count = base.blocks().len();
    for block in 0..count {
        for other in 0..count {
            base.set_trainable(other, other == block)?;
        }
        only_this_block_trains(base, &images, block)?;
    }
    Ok(())
}

/// Three images of noise in [−1, 1], the same each time.
fn images(base: &impl Backbone, height: usize, width: usize) -> Result<Tensor> {
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..3 * 3 * height * width).map(|_| noise()).collect();
    Ok(Tensor::from_vec(
        values,
        (3, 3, height, width),
        &base.device(),
    )?)
}

fn rule(what: &str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Result<()> {
    Err(Error::mismatch(
        format!("backbone: {what}"),
        found,
        expected,
    ))
}

fn names_are_distinct(base: &impl Backbone) -> Result<()> {
    let blocks = base.blocks();
    let parameters = base.parameters();
    if let Some(lost) = parameters.iter().find(|own| own.block >= blocks.len()) {
        let found = format!("block {} for `{}`", lost.block, lost.name);
        return rule(
            "a parameter's block",
            found,
            format!("below {}", blocks.len()),
        );
    }
    for mut names in [
        blocks
            .iter()
            .map(|block| block.name.clone())
            .collect::<Vec<_>>(),
        parameters.into_iter().map(|own| own.name).collect(),
    ] {
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return rule("names", format!("`{}` twice", pair[0]), "distinct ones");
        }
    }
    Ok(())
}

fn features_have_their_shape(
    base: &impl Backbone,
    images: &Tensor,
    height: usize,
    width: usize,
) -> Result<()> {
    let features = base.features(images, Mode::Infer)?;
    let [c, h, w] = base.output_shape(height, width)?;
    if features.dims() != [images.dim(0)?, c, h, w] {
        let found = format!("{:?}", features.dims());
        return rule("the features' shape", found, format!("(N, {c}, {h}, {w})"));
    }
    Ok(())
}

fn parts_make_the_whole(base: &impl Backbone, images: &Tensor) -> Result<()> {
    let count = base.blocks().len();
    let whole = base.features(images, Mode::Infer)?;
    for middle in 0..=count {
        let first = base.forward_blocks(images, 0..middle, Mode::Infer)?;
        let parts = base.forward_blocks(&first, middle..count, Mode::Infer)?;
        near(
            &format!("blocks 0..{middle}, then {middle}..{count}"),
            &parts,
            &whole,
        )?;
    }
    Ok(())
}

fn pictures_stand_alone(base: &impl Backbone, images: &Tensor) -> Result<()> {
    let together = base.features(images, Mode::Infer)?;
    for picture in 0..images.dim(0)? {
        let alone = base.features(&images.narrow(0, picture, 1)?, Mode::Infer)?;
        let own = together.narrow(0, picture, 1)?;
        near(
            "a picture's features without the rest of its batch",
            &alone,
            &own,
        )?;
    }
    Ok(())
}

fn near(what: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
    let rms = |tensor: Tensor| -> Result<f64> {
        let mean = tensor.to_dtype(DType::F64)?.sqr()?.mean_all()?;
        Ok(mean.to_scalar::<f64>()?.sqrt())
    };
    let (error, size) = (rms((found - expected)?)?, rms(expected.clone())?);
    // Written so that NaN does not pass.
    if error <= TOLERANCE * size {
        return Ok(());
    }
    let found = format!("off by {error:e}");
    rule(
        what,
        found,
        format!("equal features, of root mean square {size:e}"),
    )
}

/// With one block trainable: its tensors are variables and all take a gradient, and no other's are.
fn only_this_block_trains(base: &impl Backbone, images: &Tensor, block: usize) -> Result<()> {
    let name = &base.blocks()[block].name;
    let parameters = base.parameters();
    if let Some(other) = parameters
        .iter()
        .find(|own| own.block != block && own.variable.is_some())
    {
        let found = format!(
            "`{}` is a variable while `{name}` alone is trainable",
            other.name
        );
        return rule("frozen blocks", found, "none of their tensors to be one");
    }
    let variables: Vec<(String, Var)> = base.variables();
    if variables.is_empty() {
        return rule(
            "a trainable block",
            format!("no variables in `{name}`"),
            "some",
        );
    }
    let features = base.features(images, Mode::Train)?;
    let gradients = base.backward(&features.sqr()?.sum_all()?, &mut Vec::new())?;
    for (own, variable) in &variables {
        let Some(gradient) = gradients.get(variable) else {
            return rule(
                "a trainable block",
                format!("`{own}` takes no gradient"),
                "one",
            );
        };
        if gradient.dims() != variable.dims() {
            let found = format!("{:?} for `{own}`", gradient.dims());
            return rule(
                "a gradient's shape",
                found,
                format!("{:?}", variable.dims()),
            );
        }
    }
    Ok(())
}
