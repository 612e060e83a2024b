//! Which instructions the kernels may use.

use std::fmt;

use super::KernelError;

/// A set of instructions that kernels exist for. Each includes the ones before it on its
/// architecture, but that the 8-bit matrix products may come without FHM; results are the same bits on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Level {
    /// Plain Rust; any processor. Slow where the target has no fused multiply-add.
    Generic,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// … and AVX-512 F, BW, VL, DQ.
    Avx512,
    /// … and AVX-512 VNNI.
    Avx512Vnni,
    /// … and AVX-512 BF16.
    Avx512Bf16,
    /// aarch64 with NEON.
    Neon,
    /// … and the dot product instructions.
    NeonDotprod,
    /// … and FHM, products of binary16 added to binary32.
    NeonDotprodFhm,
    /// aarch64 with NEON, the dot product and the 8-bit matrix multiply instructions.
    NeonI8mm,
    /// … and FHM.
    NeonI8mmFhm,
}

impl Level {
    /// Every level of every architecture, in ascending order within each.
    pub const ALL: [Level; 10] = [
        Level::Generic,
        Level::Avx2,
        Level::Avx512,
        Level::Avx512Vnni,
        Level::Avx512Bf16,
        Level::Neon,
        Level::NeonDotprod,
        Level::NeonDotprodFhm,
        Level::NeonI8mm,
        Level::NeonI8mmFhm,
    ];

    /// The name as it is parsed and printed, e.g. `avx512vnni`.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Generic => "generic",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512vnni",
            Level::Avx512Bf16 => "avx512bf16",
            Level::Neon => "neon",
            Level::NeonDotprod => "dotprod",
            Level::NeonDotprodFhm => "dotprod-fhm",
            Level::NeonI8mm => "i8mm",
            Level::NeonI8mmFhm => "i8mm-fhm",
        }
    }

    /// Whether this processor, and the operating system on it, offer all of the level.
    #[cfg(target_arch = "x86_64")]
    fn offered(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Level::Generic => true,
            Level::Avx2 => has!("avx2") && has!("fma") && has!("f16c"),
            Level::Avx512 => {
                Level::Avx2.offered()
                    && has!("avx512f")
                    && has!("avx512bw")
                    && has!("avx512vl")
                    && has!("avx512dq")
            }
            Level::Avx512Vnni => Level::Avx512.offered() && has!("avx512vnni"),
            Level::Avx512Bf16 => Level::Avx512Vnni.offered() && has!("avx512bf16"),
            _ => false,
        }
    }

    /// Whether this processor, and the operating system on it, offer all of the level.
    #[cfg(target_arch = "aarch64")]
    fn offered(self) -> bool {
        use std::arch::is_aarch64_feature_detected as has;
        match self {
            Level::Generic => true,
            Level::Neon => has!("neon"),
            Level::NeonDotprod => Level::Neon.offered() && has!("dotprod"),
            Level::NeonDotprodFhm => Level::NeonDotprod.offered() && has!("fhm"),
            Level::NeonI8mm => Level::NeonDotprod.offered() && has!("i8mm"),
            Level::NeonI8mmFhm => Level::NeonI8mm.offered() && has!("fhm"),
            _ => false,
        }
    }

    /// Whether this processor, and the operating system on it, offer all of the level.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn offered(self) -> bool {
        self == Level::Generic
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A [`Level`] that this processor is known to offer. Values are made by [`Features::detect`] and
/// [`Features::parse`] only, so holding one proves that the instructions exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Features {
    level: Level,
}

impl Features {
    /// The highest level of this processor.
    pub fn detect() -> Features {
        Features::available().last().unwrap_or(Features::generic())
    }

    /// The level that every processor offers.
    pub const fn generic() -> Features {
        Features {
            level: Level::Generic,
        }
    }

    /// Every level that this processor offers, ascending.
    pub fn available() -> impl Iterator<Item = Features> {
        Level::ALL
            .into_iter()
            .filter(|level| level.offered())
            .map(|level| Features { level })
    }

    /// The level of that name ([`Level::name`]), to use less than the processor offers.
    ///
    /// # Errors
    /// [`KernelError::UnknownFeature`] if no level has the name and
    /// [`KernelError::MissingFeature`] if this processor does not offer it.
    pub fn parse(name: &str) -> Result<Features, KernelError> {
        let names = |levels: &mut dyn Iterator<Item = Level>| {
            levels.map(Level::name).collect::<Vec<_>>().join(", ")
        };
        let level = Level::ALL
            .into_iter()
            .find(|level| level.name() == name)
            .ok_or_else(|| KernelError::UnknownFeature {
                asked: name.to_owned(),
                known: names(&mut Level::ALL.into_iter()),
            })?;
        if !level.offered() {
            return Err(KernelError::MissingFeature {
                asked: level,
                available: names(&mut Features::available().map(Features::level)),
            });
        }
        Ok(Features { level })
    }

    /// The level.
    pub const fn level(self) -> Level {
        self.level
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.level.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detection_gives_the_highest_level_that_parse_accepts() {
        let best = Features::detect();
        assert_eq!(Features::parse(best.level().name()).unwrap(), best);
        for level in Level::ALL {
            match Features::parse(level.name()) {
                Ok(f) => assert!(f.level() == level && level <= best.level()),
                Err(e) => {
                    assert!(!level.offered());
                    assert!(e.to_string().contains(level.name()), "{e}");
                }
            }
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let e = Features::parse("sse9").unwrap_err().to_string();
        assert!(e.contains("sse9") && e.contains("avx2"), "{e}");
    }
}
