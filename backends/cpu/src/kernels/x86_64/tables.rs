//! The tables, each in a module of its own.

pub(in crate::kernels) use avx2::AVX2;
pub(in crate::kernels) use avx512::AVX512;
pub(in crate::kernels) use avx512_bf16::AVX512_BF16;
pub(in crate::kernels) use avx512_vnni::AVX512_VNNI;

mod avx2 {
    use super::super::avx2::Avx2;
    use crate::kernels::table::table;

    table! {
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(in crate::kernels) static AVX2: Avx2 = Avx2::new();
    }
}

mod avx512 {
    use super::super::avx512::Avx512;
    use crate::kernels::table::table;

    table! {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        pub(in crate::kernels) static AVX512: Avx512<0> = Avx512::<0>::new();
    }
}

mod avx512_vnni {
    use super::super::avx512::Avx512;
    use crate::kernels::table::table;

    table! {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
        pub(in crate::kernels) static AVX512_VNNI: Avx512<1> = Avx512::<1>::new();
    }
}

mod avx512_bf16 {
    use super::super::avx512::Avx512;
    use crate::kernels::table::table;

    table! {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
        pub(in crate::kernels) static AVX512_BF16: Avx512<2> = Avx512::<2>::new();
    }
}
