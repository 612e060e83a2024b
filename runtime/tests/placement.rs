//! Plans over simulated devices, as they are shipped.

mod common;

use anynpu_cpu::CpuDriver;
use anynpu_hal::Driver;
use anynpu_runtime::knobs::Knobs;
use anynpu_runtime::{LoadOptions, OpenModel, Precision, Runtime};
use anynpu_sim::{SHIPPED, SimDriver};
use common::testing::llama_with_heads_of;

/// A runtime of the CPU and the shipped devices at `indices`.
fn runtime(indices: &[usize]) -> Runtime {
    let mut drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver)];
    let mut names = vec!["cpu".to_owned()];
    for &i in indices {
        let description = SHIPPED[i].read().unwrap();
        let name = description.name().to_owned();
        let driver = SimDriver::new(description, Box::new(CpuDriver));
        drivers.push(Box::new(driver.named(name.clone())));
        names.push(name);
    }
    let builder = Runtime::builder().drivers(drivers).threads(1);
    let builder = names.iter().fold(builder, |b, name| b.device(name));
    builder.knobs(Knobs::default()).build().unwrap()
}

#[test]
fn no_plan_over_shipped_devices_costs_more_than_greedy_or_a_device_alone() {
    // wide enough that starting a device pays
    let open = OpenModel::new(llama_with_heads_of(256, 2), None);
    let count = SHIPPED.len();
    let mut split = 0;
    for a in 0..count {
        for b in a..count {
            for c in (b..count).step_by(3) {
                let mut indices = vec![a, b, c];
                indices.dedup();
                let mut options = LoadOptions::new();
                options.prompt = Some(64);
                options.precision = Precision::F16;
                let plans = runtime(&indices).plan(&open, &options).unwrap();
                let own = plans.price.objective_us;
                assert_eq!(plans.rivals.len(), indices.len() + 2);
                for (name, price) in &plans.rivals {
                    let worse = price.is_some_and(|p| p.objective_us < own * (1.0 - 1e-9));
                    assert!(
                        !worse,
                        "{indices:?}: {name} costs {price:?}, the plan {own}"
                    );
                }
                split += usize::from(plans.decode.partitions.len() > 1);
            }
        }
    }
    assert!(split > 0, "no plan is split, so this shows nothing");
}
