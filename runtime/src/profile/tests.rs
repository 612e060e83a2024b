use proptest::prelude::*;

use super::*;
use crate::Outcome;

fn sample(median: f64) -> Sample {
    Sample {
        median,
        p10: 0.9 * median,
        p90: 1.2 * median,
        runs: 7,
    }
}

/// A profile with one of everything.
fn full() -> Profile {
    let device = DeviceProfile {
        name: "cpu".into(),
        driver: "cpu".into(),
        kind: "cpu".into(),
        description: "a test".into(),
        taken_at: "2026-01-02T03:04:05".into(),
        dispatch_us: Some(sample(1.0)),
        node_us: Some(sample(0.5)),
        read: vec![CurvePoint {
            bytes: 1 << 20,
            bytes_per_second: sample(1e10),
        }],
        copy: vec![CurvePoint {
            bytes: 1 << 20,
            bytes_per_second: sample(5e9),
        }],
        products: vec![ProductTime {
            dtype: "q4_0".into(),
            rows: 64,
            columns: 64,
            tokens: 8,
            cold: true,
            us: sample(3.0),
        }],
        values: vec![ValueTime {
            op: "norm".into(),
            bytes: 512,
            us: sample(0.2),
        }],
        attention: vec![AttentionTime {
            dtype: "f16".into(),
            tokens: 1,
            cached: 511,
            operations: 1e6,
            us: sample(40.0),
        }],
        anchors: vec![Anchor {
            phase: "decode".into(),
            dtype: "q4_0".into(),
            tokens: 1,
            cached: 255,
            hidden: 2048,
            elements: 1 << 22,
            us: sample(1000.0),
            nodes_us: 800.0,
        }],
        best_threads: Some(BestThreads {
            prefill: 4,
            decode: 2,
        }),
        not_measured: vec!["f64".into()],
        failed: vec![Verdict {
            what: "rope".into(),
            error: "lost".into(),
        }],
        corrections: vec![Correction::new("decode q4_0")],
        claims: Some(Claims {
            compute: vec!["f16".into()],
            weights: vec!["q4_0".into(), "f16".into()],
            states: "in_place_io".into(),
            tokens: vec![1, 32],
            capacities: vec![512],
            memory_limit: Some(1 << 30),
            rates: Some(StatedRates {
                operations: vec![("q4_0".into(), 4e12)],
                bytes_per_second: 6e10,
                dispatch_us: 90.0,
                busy_watts: Some(2.5),
            }),
            ..Claims::default()
        }),
        checks: vec![
            OpCheck {
                op: "Linear".into(),
                weights: Some("q4_0".into()),
                outcome: Outcome::Agrees { error: 1e-4 },
            },
            OpCheck {
                op: "Linear".into(),
                weights: Some("q4_0".into()),
                outcome: Outcome::Lost { why: "gone".into() },
            },
            OpCheck {
                op: "RmsNorm".into(),
                weights: None,
                outcome: Outcome::Differs {
                    error: 1e9,
                    limit: 0.02,
                },
            },
        ],
        ..DeviceProfile::default()
    };
    Profile {
        schema_version: PROFILE_VERSION,
        host: Host::default(),
        devices: vec![device],
        links: vec![LinkProfile {
            from: "cpu".into(),
            to: "npu".into(),
            mode: "copy".into(),
            latency_us: Some(sample(5.0)),
            bytes_per_second: Some(sample(1e9)),
        }],
    }
}

fn error(json: &str) -> String {
    Profile::parse("p.json", json.as_bytes())
        .unwrap_err()
        .to_string()
}

#[test]
fn a_saved_profile_is_read_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.json");
    full().save(&path).unwrap();
    assert_eq!(Profile::load(&path).unwrap(), full());
    assert!(full().to_json().contains("\"p10\": 0.9"));
    assert!(full().save(folder.path().join("none/p.json")).is_err());
}

#[test]
fn several_devices_and_their_links_are_found_by_name() {
    let mut profile = full();
    let mut other = profile.devices[0].clone();
    other.name = "npu".into();
    profile.devices.push(other);
    let profile = Profile::parse("p.json", profile.to_json().as_bytes()).unwrap();
    assert_eq!(profile.device("npu").unwrap().name, "npu");
    assert!(profile.device("gpu").is_none());
    assert!(profile.link("cpu", "npu").is_some() && profile.link("npu", "cpu").is_none());
}

#[test]
fn claims_are_those_of_the_device_again_and_the_worst_check_of_a_kind_counts() {
    let profile = full();
    let device = &profile.devices[0];
    let claims = device.claims.as_ref().unwrap();
    let capabilities = claims.capabilities();
    assert_eq!(Claims::of(&capabilities), *claims);
    assert_eq!(capabilities.claimed_rates.unwrap().busy_watts, Some(2.5));
    assert_eq!(capabilities.fixed_shapes.unwrap().tokens, [1, 32]);
    let outcome = |op, weights| device.check(op, weights).map(|c| &c.outcome);
    let lost = outcome("Linear", Some("q4_0"));
    assert!(matches!(lost, Some(Outcome::Lost { .. })), "{lost:?}");
    assert_eq!(outcome("Linear", Some("q8_0")), None);
    assert_eq!(outcome("Linear", None), None);
}

#[test]
fn claims_that_make_no_sense_are_named() {
    type Change = fn(&mut Claims);
    let cases: [(Change, &str); 7] = [
        (|c| c.compute[0] = "f15".into(), "claims.compute is 'f15'"),
        (|c| c.weights.push(String::new()), "claims.weights is ''"),
        (|c| c.states = "yes".into(), "claims.states is 'yes'"),
        (|c| c.tokens = vec![0, 1], "claims.tokens is [0, 1]"),
        (|c| c.capacities = vec![8, 8], "claims.capacities is [8, 8]"),
        (
            |c| c.rates.as_mut().unwrap().operations[0].0 = "q99".into(),
            "claims.rates.operations is 'q99'",
        ),
        (
            |c| c.rates.as_mut().unwrap().dispatch_us = -1.0,
            "claims.rates is -1",
        ),
    ];
    for (change, told) in cases {
        let mut profile = full();
        change(profile.devices[0].claims.as_mut().unwrap());
        let e = error(&profile.to_json());
        assert!(e.contains(told), "{e}");
    }
    let odd = full().to_json().replace("\"agrees\"", "\"perhaps\"");
    assert!(error(&odd).contains("perhaps"));
    let odd = full()
        .to_json()
        .replacen("\"weights\": \"q4_0\"", "\"weights\": \"q99\"", 1);
    assert!(
        error(&odd).contains("checks[0].weights is 'q99'"),
        "{}",
        error(&odd)
    );
}

#[test]
fn another_schema_is_refused_with_both() {
    let json = full()
        .to_json()
        .replacen("\"schema_version\": 1", "\"schema_version\": 77", 1);
    let e = error(&json);
    assert!(
        e.contains("p.json: schema_version is 77; expected 1"),
        "{e}"
    );
    assert!(error("{}").contains("schema_version"));
}

#[test]
fn figures_that_make_no_sense_are_named_with_what_was_found() {
    type Change = fn(&mut Profile);
    let cases: [(Change, &str); 9] = [
        (
            |p| p.devices[0].products[0].us.median = -3.0,
            "devices[0].products[0].us.median is -3",
        ),
        (
            |p| {
                p.devices[0].node_us = Some(Sample {
                    p90: 0.1,
                    ..sample(0.5)
                })
            },
            "devices[0].node_us is 0.45, 0.5, 0.1",
        ),
        (
            |p| {
                p.devices[0].dispatch_us = Some(Sample {
                    runs: 0,
                    ..sample(1.0)
                })
            },
            "devices[0].dispatch_us.runs is 0",
        ),
        (
            |p| p.devices[0].products[0].dtype = "q9".into(),
            "devices[0].products[0].dtype is 'q9'",
        ),
        (
            |p| p.devices[0].products[0].tokens = 0,
            "devices[0].products[0].tokens is 0",
        ),
        (
            |p| p.devices[0].corrections[0].factor = 5.0,
            "devices[0].corrections[0].factor is 5",
        ),
        (
            |p| p.devices[0].anchors[0].phase = "boot".into(),
            "devices[0].anchors[0].phase is 'boot'",
        ),
        (
            |p| p.links[0].mode = "magic".into(),
            "links[0].mode is magic",
        ),
        (
            |p| p.devices.push(p.devices[0].clone()),
            "devices[1].name is cpu",
        ),
    ];
    for (change, expected) in cases {
        let mut profile = full();
        change(&mut profile);
        let e = error(&profile.to_json());
        assert!(e.contains(expected) && e.contains("expected"), "{e}");
    }
}

#[test]
fn a_file_that_is_too_large_or_absent_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.json");
    std::fs::write(&path, vec![b' '; MAX_PROFILE_BYTES as usize + 1]).unwrap();
    let e = Profile::load(&path).unwrap_err();
    assert!(matches!(e, ProfileError::TooLarge { .. }), "{e}");
    let e = Profile::load(folder.path().join("none.json")).unwrap_err();
    assert!(e.to_string().contains("none.json"), "{e}");
}

#[test]
fn a_sample_has_the_middle_and_the_tenths() {
    let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
    let found = Sample::of(&values, 1e-3).unwrap();
    assert_eq!(
        (found.median, found.p10, found.p90, found.runs),
        (50.0, 10.0, 90.0, 101)
    );
    assert_eq!(Sample::of(&[1.0, 2.0], 1e-3).unwrap().median, 1.5);
    assert!(Sample::of(&[], 1.0).is_none() && Sample::of(&[f64::NAN, 1.0], 1.0).is_none());
    let rate = found.map(|us| 100.0 / us);
    assert_eq!((rate.median, rate.p10), (2.0, 1.11111));
}

proptest! {
    /// Bytes of a good profile changed at some places: read or refused, and what is read makes sense.
    #[test]
    fn changed_profiles_are_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut text = full().to_json().into_bytes();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        if shorten {
            text.truncate(cut.index(text.len()));
        }
        if let Ok(profile) = Profile::parse("p.json", &text) {
            prop_assert!(profile.fault().is_none());
            prop_assert!(Profile::parse("p.json", profile.to_json().as_bytes()).is_ok());
        }
    }

    /// Digits changed into other digits keep the JSON whole, so figures of any size arrive.
    #[test]
    fn profiles_with_other_figures_are_read_or_refused(
        figures in prop::collection::vec("-?[0-9]{1,3}(\\.[0-9]{1,3})?([eE][-+]?[0-9]{1,3})?", 1..40),
    ) {
        let json = full().to_json();
        let mut figures = figures.iter().cycle();
        let lines = json.lines().map(|line| {
            let (key, value) = line.split_once(": ").unwrap_or((line, ""));
            let number = value.trim_end_matches(',');
            match number.parse::<f64>().is_ok() && !key.contains("schema") {
                true => line.replacen(number, figures.next().unwrap(), 1),
                false => line.to_owned(),
            }
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        if let Ok(profile) = Profile::parse("p.json", text.as_bytes()) {
            prop_assert!(profile.fault().is_none());
        }
    }
}
