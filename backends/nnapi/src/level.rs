//! Feature levels.

use std::fmt;

/// What a runtime or a device offers, as the interface counts it: the API level up to Android 12, from then on a number
/// of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeatureLevel(i64);

impl FeatureLevel {
    /// Android 8.1, API level 27.
    pub const FL1: FeatureLevel = FeatureLevel(27);
    /// Android 9, API level 28.
    pub const FL2: FeatureLevel = FeatureLevel(28);
    /// Android 10, API level 29: the first whose devices can be named.
    pub const FL3: FeatureLevel = FeatureLevel(29);
    /// Android 11, API level 30.
    pub const FL4: FeatureLevel = FeatureLevel(30);
    /// Android 12, API level 31.
    pub const FL5: FeatureLevel = FeatureLevel(31);
    /// The first that is updated apart from Android.
    pub const FL6: FeatureLevel = FeatureLevel(1_000_006);
    /// The second.
    pub const FL7: FeatureLevel = FeatureLevel(1_000_007);
    /// The newest.
    pub const FL8: FeatureLevel = FeatureLevel(1_000_008);

    /// All of them, ascending.
    pub const ALL: [FeatureLevel; 8] = [
        FeatureLevel::FL1,
        FeatureLevel::FL2,
        FeatureLevel::FL3,
        FeatureLevel::FL4,
        FeatureLevel::FL5,
        FeatureLevel::FL6,
        FeatureLevel::FL7,
        FeatureLevel::FL8,
    ];

    /// That of the interface's number, known here or not.
    pub const fn of_number(number: i64) -> FeatureLevel {
        FeatureLevel(number)
    }

    /// The interface's number.
    pub const fn number(self) -> i64 {
        self.0
    }
}

impl fmt::Display for FeatureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match FeatureLevel::ALL.iter().position(|l| l == self) {
            Some(at) => write!(f, "{} ({})", at + 1, self.0),
            None => write!(f, "({})", self.0),
        }
    }
}
