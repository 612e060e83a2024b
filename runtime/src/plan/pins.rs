//! Where the user wants nodes to run.

use std::fmt;
use std::str::FromStr;

use anynpu_ir::{Graph, Node};

use crate::RuntimeError;

/// `PATTERN=DEVICE`: nodes whose names fit the pattern run on the device.
///
/// `layers.3` and `layers.0-3` name whole layers. Other patterns are globs over node names, in
/// which `*` stands for any characters, dots too: `layers.*` is every node of every layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    text: String,
    pattern: Pattern,
    device: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Layers(u32, u32),
    Glob(String),
}

impl Pin {
    /// The device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Whether `node` is pinned.
    pub fn fits(&self, node: &Node) -> bool {
        match &self.pattern {
            Pattern::Layers(first, last) => {
                node.layer().is_some_and(|n| (*first..=*last).contains(&n))
            }
            Pattern::Glob(glob) => glob_fits(glob.as_bytes(), node.name.as_bytes()),
        }
    }

    /// Fails if the pattern fits no node of `graph`: it must be a mistake.
    pub(super) fn check(&self, graph: &Graph) -> Result<(), RuntimeError> {
        if graph.nodes().iter().any(|n| self.fits(n)) {
            return Ok(());
        }
        let layers = || graph.nodes().iter().filter(|n| n.layer().is_some());
        let example = layers().next().or(graph.nodes().first());
        Err(RuntimeError::PinFitsNothing {
            pin: self.text.clone(),
            example: example.map_or_else(String::new, |n| n.name.clone()),
            last_layer: layers().filter_map(Node::layer).max().unwrap_or(0),
        })
    }
}

impl FromStr for Pin {
    type Err = RuntimeError;

    fn from_str(text: &str) -> Result<Self, RuntimeError> {
        let bad = |why| RuntimeError::PinSyntax {
            pin: text.to_owned(),
            why,
        };
        let (pattern, device) = text.split_once('=').ok_or_else(|| bad("it has no '='"))?;
        if pattern.is_empty() {
            return Err(bad("the pattern is empty"));
        }
        if device.is_empty() {
            return Err(bad("the device is empty"));
        }
        let pattern = match layers(pattern) {
            Some((first, last)) if first > last => {
                return Err(bad("the first layer is after the last"));
            }
            Some((first, last)) => Pattern::Layers(first, last),
            None => Pattern::Glob(pattern.to_owned()),
        };
        Ok(Pin {
            text: text.to_owned(),
            pattern,
            device: device.to_owned(),
        })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The layers of `layers.3` or `layers.0-3`.
fn layers(pattern: &str) -> Option<(u32, u32)> {
    let range = pattern.strip_prefix("layers.")?;
    let number = |text: &str| -> Option<u32> {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())?
    };
    match range.split_once('-') {
        Some((first, last)) => Some((number(first)?, number(last)?)),
        None => number(range).map(|n| (n, n)),
    }
}

/// Whether `name` fits `glob`, in which `*` stands for any characters. Linear but for backtracking
/// to the last `*`.
fn glob_fits(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if g < glob.len() && glob[g] == b'*' {
            retry = Some((g + 1, n));
            g += 1;
        } else if g < glob.len() && glob[g] == name[n] {
            (g, n) = (g + 1, n + 1);
        } else if let Some((after, from)) = retry {
            retry = Some((after, from + 1));
            (g, n) = (after, from + 1);
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|&b| b == b'*')
}

/// What the user says about where nodes run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Pins; of several that fit a node the last counts.
    pub pins: Vec<Pin>,
    /// A device that must run every pinned node that names it and, if no pin names it, every node
    /// of every layer.
    pub require: Option<String>,
}

impl Placement {
    /// The pin that decides for `node`.
    pub(crate) fn pin(&self, node: &Node) -> Option<&Pin> {
        self.pins.iter().rev().find(|pin| pin.fits(node))
    }

    /// The pins, and before them one of `layers.*` to the required device if no pin names it.
    pub(crate) fn effective(&self) -> Placement {
        let mut placement = self.clone();
        if let Some(device) = self.required_of_layers() {
            let pin = Pin {
                text: format!("layers.*={device} (required)"),
                pattern: Pattern::Glob("layers.*".into()),
                device: device.to_owned(),
            };
            placement.pins.insert(0, pin);
        }
        placement
    }

    /// The device that must run every node of every layer.
    pub(super) fn required_of_layers(&self) -> Option<&str> {
        let device = self.require.as_deref()?;
        let named = self.pins.iter().any(|p| p.device == device);
        (!named).then_some(device)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::tiny_llama;

    fn names(pin: &str) -> Vec<String> {
        let pin: Pin = pin.parse().unwrap();
        let model = tiny_llama(12);
        let fit = model.graph().nodes().iter().filter(|n| pin.fits(n));
        fit.map(|n| n.name.clone()).collect()
    }

    #[test]
    fn patterns_name_layers_or_are_globs_whose_star_crosses_dots() {
        let per_layer = names("layers.3=d").len();
        assert!(per_layer > 10);
        assert!(
            names("layers.1=d")
                .iter()
                .all(|n| n.starts_with("layers.1."))
        );
        assert_eq!(names("layers.1=d").len(), per_layer);
        assert_eq!(names("layers.0-3=d").len(), 4 * per_layer);
        assert_eq!(names("layers.*=d").len(), 12 * per_layer);
        assert_eq!(names("*.ffn*=d").len(), 12 * 6);
        assert_eq!(names("embed=d"), ["embed"]);
        assert_eq!(names("output.*=d").len(), 3);
        assert_eq!(names("embed=sim:a=b.toml"), ["embed"]);
    }

    #[test]
    fn a_pin_that_can_not_be_read_says_why() {
        for (pin, why) in [
            ("layers.0", "no '='"),
            ("=cpu", "pattern is empty"),
            ("layers.0=", "device is empty"),
            ("layers.3-1=cpu", "first layer is after the last"),
        ] {
            let e = pin.parse::<Pin>().unwrap_err().to_string();
            assert!(e.contains(why) && e.contains(pin), "{e}");
        }
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_an_error_with_an_example() {
        let pin: Pin = "layers.12=cpu".parse().unwrap();
        let e = pin.check(tiny_llama(12).graph()).unwrap_err().to_string();
        assert!(
            e.contains("layers.12=cpu") && e.contains("layers.0."),
            "{e}"
        );
        assert!(e.contains("to 11"), "{e}");
    }

    /// The obvious matcher, exponential in the number of stars.
    fn slow(glob: &[u8], name: &[u8]) -> bool {
        match glob {
            [] => name.is_empty(),
            [b'*', rest @ ..] => (0..=name.len()).any(|i| slow(rest, &name[i..])),
            [c, rest @ ..] => name.first() == Some(c) && slow(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn globs_fit_as_the_obvious_matcher_says(glob in "[ab*]{0,8}", name in "[ab]{0,10}") {
            let (glob, name) = (glob.as_bytes(), name.as_bytes());
            prop_assert_eq!(glob_fits(glob, name), slow(glob, name));
        }
    }
}
