//! Which instructions the kernels use: what the processor has, or what the environment asks for.

use std::env::{self, VarError};
use std::fmt;
use std::sync::{LazyLock, OnceLock};

#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};

/// The environment variable that chooses other kernels than the processor's best.
pub(crate) const SWITCH: &str = "HEADSTART_KERNELS";

/// What [`SWITCH`] says for candle's own operations.
const CANDLE: &str = "candle";

/// An instruction set that this processor has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Isa(Token);

/// An instruction set's token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    Portable(Portable),
}

/// Runs an expression that is generic over [`Simd`](super::simd::Simd) with an instruction set's token. [`Token`] must
/// be in scope.
macro_rules! with_simd {
    ($isa:expr, $simd:ident => $body:expr) => {
        match $isa.token() {
            #[cfg(target_arch = "x86_64")]
            Token::Avx512($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2($simd) => $body,
            #[cfg(target_arch = "aarch64")]
            Token::Neon($simd) => $body,
            Token::Portable($simd) => $body,
        }
    };
}
pub(super) use with_simd;

impl Isa {
    /// Those this processor has, the best first.
    pub(crate) fn available() -> Vec<Self> {
        let tokens = [
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Token::Avx512),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Token::Avx2),
            #[cfg(target_arch = "aarch64")]
            Neon::detect().map(Token::Neon),
            Some(Token::Portable(Portable)),
        ];
        tokens.into_iter().flatten().map(Self).collect()
    }

    /// Plain Rust.
    #[cfg(test)]
    pub(super) fn portable() -> Self {
        Self(Token::Portable(Portable))
    }

    /// The best this processor has.
    pub(crate) fn best() -> Self {
        Self::available()[0]
    }

    /// What the environment variable [`SWITCH`] asks for, or the best if it is empty or not set; none if it asks for
    /// candle's operations. Looked up once.
    ///
    /// # Errors
    /// If it names kernels that do not exist, or instructions that this processor lacks.
    pub(crate) fn chosen() -> Result<Option<Self>, UnknownKernels> {
        static CHOSEN: OnceLock<Result<Option<Isa>, UnknownKernels>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| match env::var(SWITCH) {
            Ok(name) => Self::named(&name),
            Err(VarError::NotPresent) => Self::named(""),
            Err(VarError::NotUnicode(name)) => Self::named(&name.to_string_lossy()),
        });
        chosen.clone()
    }

    /// What a value of [`SWITCH`] means.
    pub(super) fn named(name: &str) -> Result<Option<Self>, UnknownKernels> {
        match name {
            "" => Ok(Some(Self::best())),
            CANDLE => Ok(None),
            name => match Self::available().into_iter().find(|isa| isa.name() == name) {
                Some(isa) => Ok(Some(isa)),
                None => Err(UnknownKernels {
                    found: name.to_owned(),
                }),
            },
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => "neon",
            Token::Portable(_) => "portable",
        }
    }

    pub(super) fn token(self) -> Token {
        self.0
    }
}

/// Runs `work` compiled for the best instructions that this processor has: for plain loops, whose results do not depend
/// on them. `work` must be `inline(always)`.
pub(crate) fn vectorize<R>(work: impl FnOnce() -> R) -> R {
    static BEST: LazyLock<Isa> = LazyLock::new(Isa::best);
    with_simd!(*BEST, simd => simd.vectorize(work))
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// [`SWITCH`] names kernels that do not exist, or instructions that this processor lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownKernels {
    /// The variable's value.
    pub(crate) found: String,
}

impl UnknownKernels {
    /// What the variable may say on this processor, in words.
    pub(crate) fn allowed(&self) -> String {
        let names = Isa::available().into_iter().map(Isa::name);
        let names: Vec<_> = names.chain([CANDLE]).collect();
        format!("on this processor {}", names.join(", "))
    }
}

impl fmt::Display for UnknownKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found } = self;
        write!(f, "{SWITCH} is {found}; allowed {}", self.allowed())
    }
}

impl std::error::Error for UnknownKernels {}
