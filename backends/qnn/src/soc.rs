//! Qualcomm's chips that have an HTP.

/// A chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Soc {
    /// Its name, e.g. `SM8650`.
    pub name: &'static str,
    /// Its number in the library's device configuration.
    pub id: u32,
    /// Generation of its HTP: 73 stands for v73.
    pub generation: u32,
}

const fn soc(name: &'static str, id: u32, generation: u32) -> Soc {
    Soc {
        name,
        id,
        generation,
    }
}

impl Soc {
    /// Every chip that is known, the oldest generation first. Numbers from LiteRT's `supported_soc.csv` and
    /// ExecuTorch's `qc_schema.py`.
    pub const ALL: [Soc; 9] = [
        soc("SM8350", 30, 68),
        soc("QCM6490", 35, 68),
        soc("SM8450", 36, 69),
        soc("SM8475", 42, 69),
        soc("SM8550", 43, 73),
        soc("SC8380XP", 60, 73),
        soc("SM8650", 57, 75),
        soc("SM8750", 69, 79),
        soc("SM8850", 87, 81),
    ];

    /// The chip called `name`, in letters of any case.
    pub fn find(name: &str) -> Option<Soc> {
        let mut all = Soc::ALL.into_iter();
        all.find(|s| s.name.eq_ignore_ascii_case(name))
    }

    /// Whether it computes in floating point: v68 does not.
    pub const fn has_float(self) -> bool {
        self.generation >= 69
    }

    /// Whether products of 16-bit activations with 16-bit weights run.
    pub const fn has_wide_products(self) -> bool {
        self.generation >= 73
    }

    /// Whether graphs of one compiled form can hold common weights once.
    pub const fn shares_weights(self) -> bool {
        self.generation >= 73
    }

    /// Whether weights in blocks of 4 bits run.
    pub const fn has_block_weights(self) -> bool {
        self.generation >= 73
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_found_by_name_and_are_told_apart() {
        assert_eq!(Soc::find("sm8650").unwrap().id, 57);
        assert_eq!(Soc::find("SM9999"), None);
        for (i, a) in Soc::ALL.iter().enumerate() {
            assert!(
                Soc::ALL[..i]
                    .iter()
                    .all(|b| a.name != b.name && a.id != b.id)
            );
        }
    }

    #[test]
    fn floats_come_with_v69_and_wide_products_and_block_weights_with_v73() {
        let able = |able: fn(Soc) -> bool| -> Vec<u32> {
            let able = Soc::ALL.into_iter().filter(|s| able(*s));
            able.map(|s| s.generation).collect()
        };
        assert_eq!(able(Soc::has_float)[0], 69);
        assert_eq!(able(Soc::has_wide_products)[0], 73);
        assert_eq!(able(Soc::has_block_weights), able(Soc::has_wide_products));
    }
}
