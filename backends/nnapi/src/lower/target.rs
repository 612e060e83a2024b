//! What models are lowered for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::Ranges;
use crate::FeatureLevel;
use crate::model::{NumberType, OperandType};

/// What models are lowered for: a device, and how it is to hold numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The device's feature level.
    pub level: FeatureLevel,
    /// How numbers are held.
    pub numbers: Numbers,
    /// How matrices of products are held.
    pub weights: WeightForm,
    /// What products of two computed matrices are made of.
    pub products: ProductForm,
    /// Whose memory states are in.
    pub states: StateForm,
    /// Between which numbers activations are: then products with weights in 8 bits are of integers.
    pub ranges: Option<Arc<Ranges>>,
}

/// How numbers are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Numbers {
    /// In 32 bits.
    #[default]
    F32,
    /// In 32 bits, computed in the range and precision of 16 where the device likes to.
    Relaxed,
    /// In 16 bits.
    F16,
}

/// How matrices of products are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightForm {
    /// As other numbers, whatever the file has.
    #[default]
    Numbers,
    /// In 8 bits with a scale a row: widened by the device, or, where ranges of activations are known, multiplied as
    /// integers by `CONV_2D`.
    Int8,
    /// In 8 bits with one scale, multiplied as integers by `FULLY_CONNECTED`. Ranges of activations must be known.
    Int8Tensor,
}

/// Whose memory states are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StateForm {
    /// The host's, which runs read in place: new rows are results that the host writes.
    #[default]
    Host,
    /// The device's own: a run reads all rows and writes all rows, its own among them, so that the host sees none.
    Device,
}

/// What products of two computed matrices are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProductForm {
    /// `BATCH_MATMUL`, from feature level 6 on.
    Batched,
    /// A `FULLY_CONNECTED` a matrix, with weights that are computed.
    Connected,
    /// `MUL` of all pairs and `REDUCE_SUM`.
    Summed,
}

impl ProductForm {
    /// Those that there are at `level`, best first.
    pub fn at(level: FeatureLevel) -> &'static [ProductForm] {
        let all = &[
            ProductForm::Batched,
            ProductForm::Connected,
            ProductForm::Summed,
        ];
        match level >= FeatureLevel::FL6 {
            true => all,
            false => &all[1..],
        }
    }

    /// The operations that it is made of.
    pub const fn name(self) -> &'static str {
        match self {
            ProductForm::Batched => "BATCH_MATMUL",
            ProductForm::Connected => "FULLY_CONNECTED",
            ProductForm::Summed => "MUL and REDUCE_SUM",
        }
    }
}

impl Target {
    /// The best there is at `level`, in 32 bits.
    pub fn new(level: FeatureLevel) -> Target {
        Target {
            level,
            numbers: Numbers::F32,
            weights: WeightForm::Numbers,
            products: ProductForm::at(level)[0],
            states: StateForm::Host,
            ranges: None,
        }
    }
}

/// A word that is none of those expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{found}' is none of {expected}")]
pub struct FormError {
    /// The word.
    pub found: String,
    /// Those expected.
    pub expected: String,
}

/// Gives an enum of plain words its list and its spelling.
macro_rules! words {
    ($enum:ident: $($variant:ident $word:literal),+) => {
        impl $enum {
            /// All of them.
            pub const ALL: &[$enum] = &[$($enum::$variant),+];

            /// Its name in options.
            pub const fn name(self) -> &'static str {
                match self {
                    $($enum::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $enum {
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
words!(Numbers: F32 "f32", Relaxed "relaxed", F16 "f16");
words!(StateForm: Host "host", Device "device");
words!(WeightForm: Numbers "numbers", Int8 "int8", Int8Tensor "int8-tensor");

impl Numbers {
    /// The type that they are held in.
    pub const fn held(self) -> NumberType {
        match self {
            Numbers::F32 | Numbers::Relaxed => NumberType::F32,
            Numbers::F16 => NumberType::F16,
        }
    }

    /// The operand type of tensors.
    pub const fn tensor(self) -> OperandType {
        self.held().tensor()
    }

    /// The type that they may be computed in.
    pub const fn computed(self) -> anynpu_ir::DType {
        match self {
            Numbers::F32 => anynpu_ir::DType::F32,
            Numbers::Relaxed | Numbers::F16 => anynpu_ir::DType::F16,
        }
    }
}
