//! The tables, each in a module of its own.

pub(in crate::kernels) use dotprod::NEON_DOTPROD;
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

mod i8mm {
    use super::super::Neon;
    use crate::kernels::table::table;

    table! {
        #[target_feature(enable = "neon,dotprod,i8mm")]
        pub(in crate::kernels) static NEON_I8MM: Neon<2> = Neon::<2>::new();
    }
}
