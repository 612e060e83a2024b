//! The tables, each in a module of its own.

pub(in crate::kernels) use dotprod::NEON_DOTPROD;
pub(in crate::kernels) use fhm::{NEON_DOTPROD_FHM, NEON_I8MM_FHM};
pub(in crate::kernels) use i8mm::NEON_I8MM;
pub(in crate::kernels) use neon::NEON;

mod neon {
    use super::super::Neon;
    use crate::kernels::table::table;

    table! {
        #[target_feature(enable = "neon")]
        pub(in crate::kernels) static NEON: Neon<0> = Neon::<0>::new();
    }
}

mod dotprod {
    use super::super::Neon;
    use crate::kernels::table::table;

    table! {
        #[target_feature(enable = "neon,dotprod")]
        pub(in crate::kernels) static NEON_DOTPROD: Neon<1> = Neon::<1>::new();
    }
}

/// The others but for what FHM computes.
mod fhm {
    use super::super::{Neon, fhm};
    use crate::kernels::matmul::Task;
    use crate::kernels::table::{Table, table};

    table! { @function #[target_feature(enable = "neon,fhm")] narrow_tile = Neon::<0>::new(), fhm::narrow_tile,
    (x: &[f32], cols: usize, width: usize, out: &mut [u8]) }
    table! { @function #[target_feature(enable = "neon,fhm")] narrow = Neon::<0>::new(), fhm::narrow,
    (task: Task<'_>) }

    pub(in crate::kernels) static NEON_DOTPROD_FHM: Table = Table {
        f16_products: true,
        narrow_tile,
        narrow,
        ..super::NEON_DOTPROD
    };
    pub(in crate::kernels) static NEON_I8MM_FHM: Table = Table {
        f16_products: true,
        narrow_tile,
        narrow,
        ..super::NEON_I8MM
    };
}

mod i8mm {
    use super::super::Neon;
    use crate::kernels::table::table;

    table! {
        #[target_feature(enable = "neon,dotprod,i8mm")]
        pub(in crate::kernels) static NEON_I8MM: Neon<2> = Neon::<2>::new();
    }
}
