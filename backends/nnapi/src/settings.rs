//! What compilations are to be like.

use std::path::PathBuf;

use crate::lower::FormError;
use crate::sys;

/// What a compilation is to be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompileSettings {
    /// What it is to be good at.
    pub preference: Option<Preference>,
    /// How urgent its runs are beside those of others, from feature level 4 on.
    pub priority: Option<Priority>,
    /// The longest that compiling, and that a run may take, in nanoseconds, from feature level 4 on.
    pub timeout: Option<u64>,
    /// The folder in which drivers keep what they compiled, and what tells models apart there.
    pub cache: Option<(PathBuf, [u8; sys::BYTE_SIZE_OF_CACHE_TOKEN])>,
}

/// What a compilation is to be good at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preference {
    /// Little power.
    LowPower,
    /// One answer that comes soon.
    FastSingleAnswer,
    /// Many answers one after the other.
    SustainedSpeed,
}

/// How urgent runs are beside those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Priority {
    /// Less than usual.
    Low,
    /// As usual.
    Medium,
    /// More than usual.
    High,
}

/// Gives an enum its words.
macro_rules! words {
    ($enum:ident: $($variant:ident $word:literal $number:ident),+) => {
        impl $enum {
            /// All of them.
            pub const ALL: &[$enum] = &[$($enum::$variant),+];

            /// Its name in options.
            pub const fn name(self) -> &'static str {
                match self {
                    $($enum::$variant => $word),+
                }
            }

            /// The interface's number.
            pub const fn code(self) -> i32 {
                match self {
                    $($enum::$variant => sys::$number),+
                }
            }
        }

        impl std::str::FromStr for $enum {
            type Err = FormError;

            fn from_str(s: &str) -> Result<Self, FormError> {
                let found = $enum::ALL.iter().copied().find(|x| x.name() == s);
                found.ok_or_else(|| FormError {
                    found: s.into(),
                    expected: [$($word),+].join(", "),
                })
            }
        }
    };
}
words!(Preference:
    LowPower "low-power" PREFER_LOW_POWER,
    FastSingleAnswer "fast" PREFER_FAST_SINGLE_ANSWER,
    SustainedSpeed "sustained" PREFER_SUSTAINED_SPEED);
words!(Priority: Low "low" PRIORITY_LOW, Medium "medium" PRIORITY_MEDIUM, High "high" PRIORITY_HIGH);
