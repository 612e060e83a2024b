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
pub const SHIPPED: &[Shipped] = shipped!["reference-f32", "reference-f16",];

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
