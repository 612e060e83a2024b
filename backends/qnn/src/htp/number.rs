//! What the elements of tensors stand for.

use half::f16;

use super::{DataType, Encoding, GraphError, Tensor};

impl Tensor {
    /// The numbers that `bytes` stand for: row-major elements of the tensor's type.
    ///
    /// # Errors
    /// Bytes of another size.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<f64>, GraphError> {
        self.sized(bytes.len(), self.bytes())?;
        let elements = bytes.chunks_exact(self.dtype.bytes());
        let elements = elements.map(|b| match *b {
            [a] if self.dtype == DataType::Sfixed8 => f64::from(a as i8),
            [a] => f64::from(a),
            [a, b] if self.dtype == DataType::F16 => f16::from_le_bytes([a, b]).to_f64(),
            [a, b] => f64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => match self.dtype {
                DataType::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
                DataType::U32 => f64::from(u32::from_le_bytes([a, b, c, d])),
                _ => f64::from(i32::from_le_bytes([a, b, c, d])),
            },
            _ => 0.0,
        });
        let real = elements.enumerate().map(|(i, x)| {
            let (scale, offset) = self.step(i);
            scale * (x + offset)
        });
        Ok(real.collect())
    }

    /// The elements that come nearest to `numbers`, row-major; what is beyond the type's range becomes its end.
    ///
    /// # Errors
    /// Another number of numbers than of elements.
    pub fn encode(&self, numbers: &[f64]) -> Result<Vec<u8>, GraphError> {
        self.sized(numbers.len(), self.elements())?;
        let mut bytes = Vec::with_capacity(numbers.len() * self.dtype.bytes());
        for (i, &x) in numbers.iter().enumerate() {
            let (scale, offset) = self.step(i);
            // a cast of floating point saturates
            let element = match self.encoding {
                Encoding::None => x,
                _ => x / scale - offset,
            };
            match self.dtype {
                DataType::F32 => bytes.extend((element as f32).to_le_bytes()),
                DataType::F16 => bytes.extend(f16::from_f64(element).to_le_bytes()),
                DataType::I32 | DataType::Sfixed32 => {
                    bytes.extend((element.round_ties_even() as i32).to_le_bytes());
                }
                DataType::U32 => bytes.extend((element.round_ties_even() as u32).to_le_bytes()),
                DataType::Ufixed16 => {
                    bytes.extend((element.round_ties_even() as u16).to_le_bytes());
                }
                DataType::Ufixed8 => bytes.push(element.round_ties_even() as u8),
                DataType::Bool => bytes.push(u8::from(element != 0.0)),
                DataType::Sfixed8 => {
                    let most = match self.encoding {
                        Encoding::NarrowChannels { bits, .. } => {
                            f64::from(1u32 << (bits.clamp(1, 8) - 1)) - 1.0
                        }
                        Encoding::Blocks { .. } | Encoding::Factored { .. } => 7.0,
                        _ => 127.0,
                    };
                    let element = element.round_ties_even().clamp(-most - 1.0, most);
                    bytes.push(element as i8 as u8);
                }
            }
        }
        Ok(bytes)
    }

    /// How far apart numbers are that neighbouring elements stand for, on average: 0 of floating point.
    pub fn resolution(&self) -> f64 {
        match &self.encoding {
            Encoding::None => 0.0,
            Encoding::Scale { scale, .. } => f64::from(*scale),
            Encoding::Channels { scales, .. }
            | Encoding::NarrowChannels { scales, .. }
            | Encoding::Blocks { scales, .. } => {
                scales.iter().map(|s| f64::from(*s)).sum::<f64>() / scales.len().max(1) as f64
            }
            Encoding::Factored {
                scales, factors, ..
            } => {
                let blocks = factors.len() / scales.len().max(1);
                let steps = factors.chunks(blocks.max(1)).zip(scales);
                let steps = steps
                    .map(|(f, s)| f.iter().map(|f| f64::from(*f)).sum::<f64>() * f64::from(*s));
                steps.sum::<f64>() / factors.len().max(1) as f64
            }
        }
    }

    /// The least and the most number that an element without sign can stand for; everything for other types.
    pub fn span(&self) -> (f64, f64) {
        let most = match self.dtype {
            DataType::Ufixed8 => f64::from(u8::MAX),
            DataType::Ufixed16 => f64::from(u16::MAX),
            _ => return (f64::NEG_INFINITY, f64::INFINITY),
        };
        let (scale, offset) = self.step(0);
        (scale * offset, scale * (most + offset))
    }

    /// Scale and offset of element `i`.
    fn step(&self, i: usize) -> (f64, f64) {
        let along = |axis: u32| {
            let inner = self.dims.iter().skip(axis as usize + 1);
            let inner: usize = inner.map(|d| *d as usize).product();
            let count = self.dims.get(axis as usize).copied().unwrap_or(1) as usize;
            i / inner.max(1) % count.max(1)
        };
        let of =
            |scales: &[f32], at: usize| (f64::from(scales.get(at).copied().unwrap_or(1.0)), 0.0);
        match &self.encoding {
            Encoding::None => (1.0, 0.0),
            Encoding::Scale { scale, offset } => (f64::from(*scale), f64::from(*offset)),
            Encoding::Channels { axis, scales } | Encoding::NarrowChannels { axis, scales, .. } => {
                of(scales, along(*axis))
            }
            Encoding::Blocks { block, scales } => {
                let (mut at, mut rest) = (0, self.elements().unwrap_or(1).max(1));
                let mut left = i;
                for (&dim, &block) in self.dims.iter().zip(block) {
                    rest /= dim.max(1) as usize;
                    let index = left / rest.max(1);
                    left %= rest.max(1);
                    at = at * (dim / block.max(1)) as usize + index / block.max(1) as usize;
                }
                of(scales, at)
            }
            Encoding::Factored {
                axis,
                scales,
                factors,
            } => {
                let channels = scales.len().max(1);
                let inputs = self.elements().unwrap_or(1) / channels;
                let (channel, input) = match axis {
                    0 => (i / inputs.max(1), i % inputs.max(1)),
                    _ => (i % channels, i / channels),
                };
                let blocks = factors.len() / channels;
                let block = input / (inputs / blocks.max(1)).max(1);
                let factor = factors.get(channel * blocks + block).copied().unwrap_or(1);
                (of(scales, channel).0 * f64::from(factor), 0.0)
            }
        }
    }

    fn sized(&self, found: usize, expected: Option<usize>) -> Result<(), GraphError> {
        match expected == Some(found) {
            true => Ok(()),
            false => Err(GraphError::Tensor {
                tensor: self.name.clone(),
                what: "the length of its contents",
                found: found.to_string(),
                expected: expected.map_or("one that can be counted".into(), |n| n.to_string()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::TensorKind;
    use super::*;

    fn tensor(dtype: DataType, dims: &[u32], encoding: Encoding) -> Tensor {
        Tensor {
            name: "t".into(),
            kind: TensorKind::Input,
            dtype,
            dims: dims.to_vec(),
            encoding,
        }
    }

    proptest! {
        #[test]
        fn what_was_decoded_is_encoded_as_it_was(bytes in prop::collection::vec(any::<u8>(), 48)) {
            let scale = Encoding::Scale { scale: 0.03, offset: -117 };
            let scales = |n: usize| (1..=n).map(|i| 0.01 * i as f32).collect::<Vec<_>>();
            let channels = Encoding::Channels { axis: 1, scales: scales(3) };
            let blocks = Encoding::Blocks { block: vec![1, 4], scales: scales(12) };
            let factored = |axis| Encoding::Factored { axis, scales: scales(4), factors: (1..=12).collect() };
            for (tensor, bytes) in [
                (tensor(DataType::Ufixed8, &[48], scale.clone()), bytes.clone()),
                (tensor(DataType::Ufixed16, &[4, 6], scale), bytes.clone()),
                (tensor(DataType::Sfixed8, &[4, 3, 4], channels), bytes.iter().map(|b| b | 1).collect()),
                (
                    tensor(DataType::Sfixed8, &[4, 12], blocks),
                    bytes.iter().map(|b| (b % 16).wrapping_sub(8)).collect(),
                ),
                (
                    tensor(DataType::Sfixed8, &[4, 12], factored(0)),
                    bytes.iter().map(|b| (b % 16).wrapping_sub(8)).collect(),
                ),
                (
                    tensor(DataType::Sfixed8, &[1, 12, 4], factored(2)),
                    bytes.iter().map(|b| (b % 16).wrapping_sub(8)).collect(),
                ),
                (tensor(DataType::I32, &[12], Encoding::None), bytes.clone()),
                (tensor(DataType::U32, &[12], Encoding::None), bytes),
            ] {
                let numbers = tensor.decode(&bytes).unwrap();
                prop_assert_eq!(tensor.encode(&numbers).unwrap(), bytes, "{:?}", tensor);
            }
        }
    }

    #[test]
    fn scales_are_those_of_their_channel_and_block() {
        let scales = vec![1.0, 10.0, 100.0, 1000.0];
        let channels = Encoding::Channels {
            axis: 0,
            scales: vec![1.0, 10.0],
        };
        let t = tensor(DataType::Sfixed8, &[2, 2], channels);
        assert_eq!(t.decode(&[1, 2, 3, 4]).unwrap(), [1.0, 2.0, 30.0, 40.0]);
        let blocks = Encoding::Blocks {
            block: vec![1, 2],
            scales,
        };
        let t = tensor(DataType::Sfixed8, &[2, 4], blocks);
        assert_eq!(
            t.decode(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap(),
            [1.0, 2.0, 30.0, 40.0, 500.0, 600.0, 7000.0, 8000.0]
        );
        let factored = |axis| Encoding::Factored {
            axis,
            scales: vec![1.0, 10.0],
            factors: vec![1, 2, 3, 4],
        };
        let t = tensor(DataType::Sfixed8, &[4, 2], factored(1));
        assert_eq!(
            t.decode(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap(),
            [1.0, 60.0, 3.0, 120.0, 10.0, 240.0, 14.0, 320.0]
        );
        let t = tensor(DataType::Sfixed8, &[2, 4], factored(0));
        assert_eq!(
            t.decode(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap(),
            [1.0, 2.0, 6.0, 8.0, 150.0, 180.0, 280.0, 320.0]
        );
        assert_eq!(t.resolution(), (1.0 + 2.0 + 30.0 + 40.0) / 4.0);
    }

    #[test]
    fn numbers_beyond_the_range_become_its_end_and_other_sizes_are_refused() {
        let scale = Encoding::Scale {
            scale: 0.5,
            offset: -10,
        };
        let t = tensor(DataType::Ufixed8, &[3], scale);
        assert_eq!(t.encode(&[-1e9, 0.0, 1e9]).unwrap(), [0, 10, 255]);
        assert!(t.encode(&[0.0]).is_err() && t.decode(&[0; 4]).is_err());
    }
}
