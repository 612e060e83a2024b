//! What compilations are to be good at, and how urgent they are.

use crate::lower::FormError;
use crate::sys;

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
