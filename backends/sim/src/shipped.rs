//! The descriptions of this build.

use crate::{Description, SimError};

/// A description that is part of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipped {
    /// Its name, as after `sim:`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$(Shipped {
            name: $name,
            text: include_str!(concat!("../devices/", $name, ".toml")),
        }),+]
    };
}

/// Every shipped description: those made for tests first, then models of products.
pub const SHIPPED: &[Shipped] = shipped![
    "reference-f32",
    "reference-f16",
    "reference-static",
    "apple-a17-pro",
    "apple-a18-pro",
    "apple-a19-pro",
    "dimensity-9300",
    "dimensity-9400",
    "dimensity-9500",
    "exynos-2400",
    "snapdragon-8-elite",
    "snapdragon-8-elite-gen-5",
    "snapdragon-8-gen-1",
    "snapdragon-8-gen-2",
    "snapdragon-8-gen-3",
    "tensor-g4",
];

impl Shipped {
    /// The description called `name`.
    pub fn find(name: &str) -> Option<&'static Shipped> {
        SHIPPED.iter().find(|s| s.name == name)
    }

    /// Reads it.
    ///
    /// # Errors
    /// None for the descriptions of this build; a test reads them all.
    pub fn read(&self) -> Result<Description, SimError> {
        Description::parse(self.text, &format!("{}.toml", self.name))
    }
}
