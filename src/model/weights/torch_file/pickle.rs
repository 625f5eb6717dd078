//! The objects of a pickle as far as PyTorch's files of weights have them; nothing in it is ever called.
//!
//! Python's own reader runs what a pickle names. This one knows five names, which make dictionaries and describe
//! tensors, and takes all others for an object that is nobody's. candle's reader panics on some damaged files, and
//! copies what a pickle refers to each time, which a file of a few hundred bytes can make out to be gigabytes; here it
//! is shared.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// How deep tuples may lie in each other: those of a tensor are four deep.
const DEEPEST: usize = 64;

/// An object.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Text(Rc<str>),
    Int(i64),
    /// Objects, and how deep the deepest lies.
    Tuple(Rc<[Object]>, usize),
    List(Rc<RefCell<Vec<Object>>>),
    Dict(Rc<RefCell<Vec<(Object, Object)>>>),
    /// A module and a name in it.
    Name(Rc<str>),
    Storage(Rc<Storage>),
    Tensor(Rc<Strided>),
    /// What is none of these.
    Other,
}

/// Numbers in a file of the archive.
#[derive(Debug)]
pub(super) struct Storage {
    /// Such as `FloatStorage`.
    pub(super) kind: Rc<str>,
    /// The file's name.
    pub(super) key: Rc<str>,
}

/// A tensor over a storage.
#[derive(Debug)]
pub(super) struct Strided {
    pub(super) storage: Rc<Storage>,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Reads the object that a pickle is.
pub(super) fn read(bytes: &[u8]) -> Result<Object, String> {
    let mut machine = Machine {
        left: bytes,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while machine.step()? {}
    machine.pop()
}

struct Machine<'a> {
    left: &'a [u8],
    stack: Vec<Object>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Object>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, left) = self
            .left
            .split_at_checked(count)
            .ok_or("it ends too early")?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many were taken"))
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let end = self.left.iter().position(|&byte| byte == b'\n');
        let line = self.take(end.ok_or("it ends too early")?)?;
        self.take(1)?;
        Ok(line)
    }

    fn text(bytes: &[u8]) -> Result<Rc<str>, String> {
        let text = std::str::from_utf8(bytes);
        text.map(Rc::from)
            .map_err(|_| "text that is not UTF-8".to_owned())
    }

    fn pop(&mut self) -> Result<Object, String> {
        // What lies below a mark is not to be had before the mark is gone.
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().expect("it is not empty")),
            false => Err("an operation without its operand".to_owned()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Object>, String> {
        let mark = self.marks.pop().ok_or("an operation without its mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn push_tuple(&mut self, objects: Vec<Object>) -> Result<(), String> {
        let depth = objects.iter().map(|object| match object {
            Object::Tuple(_, depth) => *depth,
            _ => 0,
        });
        let depth = 1 + depth.max().unwrap_or(0);
        if depth > DEEPEST {
            return Err(format!("tuples more than {DEEPEST} deep"));
        }
        self.stack.push(Object::Tuple(objects.into(), depth));
        Ok(())
    }

    /// Runs one operation; false after the last. The letters are those of Python's `pickletools`, protocol 2 to 4.
    fn step(&mut self) -> Result<bool, String> {
        let [operation] = self.array()?;
        match operation {
            b'.' => return Ok(false),
            0x80 => self.take(1).map(drop)?,
            0x95 => self.take(8).map(drop)?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(drop)?,
            b'N' | 0x88 | 0x89 => self.stack.push(Object::Other),
            b'G' => {
                self.take(8)?;
                self.stack.push(Object::Other);
            }
            b'K' | b'M' | b'J' | 0x8a => self.integer(operation)?,
            b'X' | 0x8c | b'c' | 0x93 => self.name(operation)?,
            b')' => self.push_tuple(Vec::new())?,
            b't' => {
                let objects = self.pop_to_mark()?;
                self.push_tuple(objects)?;
            }
            0x85..=0x87 => {
                let mut objects = Vec::new();
                for _ in 0..operation - 0x84 {
                    objects.push(self.pop()?);
                }
                objects.reverse();
                self.push_tuple(objects)?;
            }
            b']' => self.stack.push(Object::List(Rc::default())),
            b'}' => self.stack.push(Object::Dict(Rc::default())),
            b'a' | b'e' | b's' | b'u' => self.fill(operation)?,
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(operation)?,
            b'Q' => {
                let id = self.pop()?;
                self.stack.push(storage(&id));
            }
            b'R' | 0x81 => {
                let (arguments, called) = (self.pop()?, self.pop()?);
                let made = made(&called, &arguments)?;
                self.stack.push(made);
            }
            // State for an object: only a dictionary's own entries matter here.
            b'b' => self.pop().map(drop)?,
            other => {
                return Err(format!(
                    "an operation {other:#04x} that files of weights do not have"
                ));
            }
        }
        Ok(true)
    }

    fn integer(&mut self, operation: u8) -> Result<(), String> {
        let integer = match operation {
            b'K' => i64::from(u8::from_le_bytes(self.array()?)),
            b'M' => i64::from(u16::from_le_bytes(self.array()?)),
            b'J' => i64::from(i32::from_le_bytes(self.array()?)),
            _ => {
                let [count] = self.array()?;
                let bytes = self.take(count.into())?;
                let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
                let mut whole = [if negative { 0xff } else { 0 }; 8];
                let target = whole.get_mut(..bytes.len());
                target
                    .ok_or("an integer of more than 64 bits")?
                    .copy_from_slice(bytes);
                i64::from_le_bytes(whole)
            }
        };
        self.stack.push(Object::Int(integer));
        Ok(())
    }

    fn name(&mut self, operation: u8) -> Result<(), String> {
        let object = match operation {
            b'X' => {
                let length = u32::from_le_bytes(self.array()?);
                Object::Text(Self::text(self.take(length as usize)?)?)
            }
            0x8c => {
                let [length] = self.array()?;
                Object::Text(Self::text(self.take(length.into())?)?)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let (module, name) = (Self::text(module)?, Self::text(name)?);
                Object::Name(format!("{module}.{name}").into())
            }
            _ => match (self.pop()?, self.pop()?) {
                (Object::Text(name), Object::Text(module)) => {
                    Object::Name(format!("{module}.{name}").into())
                }
                _ => return Err("a name that is no text".to_owned()),
            },
        };
        self.stack.push(object);
        Ok(())
    }

    /// Adds one item or all above the mark to the list or the dictionary below.
    fn fill(&mut self, operation: u8) -> Result<(), String> {
        let items = match operation {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.pop_to_mark()?,
        };
        match (operation, self.stack.last()) {
            (b'a' | b'e', Some(Object::List(list))) => list.borrow_mut().extend(items),
            (b's' | b'u', Some(Object::Dict(dict))) => {
                let pairs = items.chunks_exact(2);
                let pairs = pairs.map(|pair| (pair[0].clone(), pair[1].clone()));
                dict.borrow_mut().extend(pairs);
            }
            // Something else's items, such as those of a set.
            (_, Some(_)) => {}
            (_, None) => return Err("items of nothing".to_owned()),
        }
        Ok(())
    }

    fn remember(&mut self, operation: u8) -> Result<(), String> {
        let place = match operation {
            b'q' | b'h' => u32::from(u8::from_le_bytes(self.array()?)),
            0x94 => self.memo.len() as u32,
            _ => u32::from_le_bytes(self.array()?),
        };
        if matches!(operation, b'h' | b'j') {
            let object = self.memo.get(&place).ok_or("a reference to nothing")?;
            self.stack.push(object.clone());
        } else {
            let object = self.stack.last().ok_or("nothing to remember")?;
            self.memo.insert(place, object.clone());
        }
        Ok(())
    }
}

/// What PyTorch stores a tensor's numbers as: ("storage", kind, file, device, count).
fn storage(id: &Object) -> Object {
    let Object::Tuple(parts, _) = id else {
        return Object::Other;
    };
    match parts.as_ref() {
        [
            Object::Text(what),
            Object::Name(kind),
            Object::Text(key),
            ..,
        ] if &**what == "storage" => Object::Storage(Rc::new(Storage {
            kind: kind.clone(),
            key: key.clone(),
        })),
        _ => Object::Other,
    }
}

/// What a call stands for.
fn made(called: &Object, arguments: &Object) -> Result<Object, String> {
    let (Object::Name(name), Object::Tuple(arguments, _)) = (called, arguments) else {
        return Ok(Object::Other);
    };
    match (&**name, arguments.as_ref()) {
        ("collections.OrderedDict", []) => Ok(Object::Dict(Rc::default())),
        (
            "torch._utils._rebuild_tensor_v2",
            [Object::Storage(storage), offset, shape, strides, ..],
        ) => {
            let [offset] = sizes(std::slice::from_ref(offset))?[..] else {
                return Ok(Object::Other);
            };
            Ok(Object::Tensor(Rc::new(Strided {
                storage: storage.clone(),
                offset,
                shape: tuple_of_sizes(shape)?,
                strides: tuple_of_sizes(strides)?,
            })))
        }
        ("torch._utils._rebuild_parameter", [tensor, ..]) => Ok(tensor.clone()),
        // (function, type, arguments, state) of a tensor of another class.
        ("torch._tensor._rebuild_from_type_v2", [function, _, arguments, ..]) => match function {
            Object::Name(name) if &**name == "torch._utils._rebuild_tensor_v2" => {
                made(function, arguments)
            }
            _ => Ok(Object::Other),
        },
        _ => Ok(Object::Other),
    }
}

fn tuple_of_sizes(object: &Object) -> Result<Vec<usize>, String> {
    match object {
        Object::Tuple(objects, _) => sizes(objects),
        _ => Err("a shape that is no tuple".to_owned()),
    }
}

fn sizes(objects: &[Object]) -> Result<Vec<usize>, String> {
    let size = |object: &Object| match object {
        Object::Int(size) => usize::try_from(*size).map_err(|_| format!("a size of {size}")),
        _ => Err("a size that is no number".to_owned()),
    };
    objects.iter().map(size).collect()
}
