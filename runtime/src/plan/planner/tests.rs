use anynpu_hal::driver::noop::NoopDriver;
use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, DeviceInfo, Driver, Entry, HalError, Module,
    OpenOptions, Queue, ReasonCode, WeightSource,
};
use anynpu_ir::{Op, Subgraph};

use super::*;
use crate::plan::Because;
use crate::testing::tiny_llama;

/// A device that refuses some ops: those of `table` at once, those of `late` when validating.
#[derive(Debug)]
struct Picky {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
    table: &'static [&'static str],
    late: &'static [&'static str],
}

fn refuse(graph: &Subgraph<'_>, ops: &[&str]) -> Vec<Support> {
    let verdict = |op: &Op| match ops.contains(&op.name()) {
        true => Support::No(Reason::new(
            ReasonCode::OpUnknown,
            format!("no {}", op.name()),
        )),
        false => Support::Yes,
    };
    graph.nodes().map(|(_, n)| verdict(&n.op)).collect()
}

impl Device for Picky {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        refuse(graph, self.table)
    }
    fn validate(&self, graph: &Subgraph<'_>) -> Result<Vec<Support>, HalError> {
        let refused = [self.table, self.late].concat();
        Ok(refuse(graph, &refused))
    }
    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        self.inner.compile(entries, options, weights, progress)
    }
    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.allocate(desc)
    }
    fn queue(&self) -> &dyn Queue {
        self.inner.queue()
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

fn device(
    name: &str,
    table: &'static [&'static str],
    late: &'static [&'static str],
) -> Arc<dyn Device> {
    let found = NoopDriver.enumerate().unwrap();
    let inner = NoopDriver.open(&found[0], &OpenOptions::default()).unwrap();
    let mut info = inner.info().clone();
    info.name = name.into();
    Arc::new(Picky {
        inner,
        info,
        table,
        late,
    })
}

fn planned(devices: &[Arc<dyn Device>], placement: &Placement) -> Result<PlanSet, RuntimeError> {
    let model = tiny_llama(4);
    let request = PlanRequest {
        placement,
        prompt: 512,
        tokens: 128,
        chunk: 256,
        context: 1024,
        state_dtype: DType::F32,
        refused: &[],
        objective: Objective::default(),
        budgets: &[],
        cost: &CostModel::default(),
    };
    plan(model.graph(), devices, &request)
}

fn pins(pins: &[&str]) -> Placement {
    Placement {
        pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
        ..Placement::default()
    }
}

/// Device and layers of each segment of decode.
fn segments(set: &PlanSet) -> Vec<(String, Option<[u32; 2]>)> {
    let report = set.report(tiny_llama(4).graph());
    let segments = report.phases[1].segments.iter();
    segments.map(|s| (s.device.clone(), s.layers)).collect()
}

#[test]
fn of_equal_devices_the_most_preferred_that_runs_all_runs_all() {
    let devices = [
        device("npu", &["Rope"], &[]),
        device("a", &[], &[]),
        device("b", &[], &[]),
    ];
    let set = planned(&devices, &Placement::default()).unwrap();
    assert_eq!(segments(&set), [("a".to_owned(), Some([0, 3]))]);
    assert!(set.decode.transfers.is_empty());
    assert_eq!(set.decode.why.len(), tiny_llama(4).graph().nodes().len());
    assert_eq!(set.decode.why[0].because, Because::Cheapest);
    assert_eq!(set.decode.states.len(), 8);
}

#[test]
fn pinned_layers_run_where_they_are_pinned_and_the_last_pin_counts() {
    let devices = [device("a", &[], &[]), device("b", &[], &[])];
    let set = planned(&devices, &pins(&["*=a", "layers.1-2=b"])).unwrap();
    let a = || "a".to_owned();
    assert_eq!(
        segments(&set),
        [
            (a(), Some([0, 0])),
            ("b".to_owned(), Some([1, 2])),
            (a(), Some([3, 3]))
        ]
    );
    assert_eq!(set.decode.transfers.len(), 2);
    let set = planned(&devices, &pins(&["*=b", "layers.*=a"])).unwrap();
    let order: Vec<_> = segments(&set).into_iter().map(|s| s.0).collect();
    assert_eq!(order, ["b", "a", "b"]);
}

#[test]
fn a_pin_that_can_not_be_kept_is_an_error_with_the_reasons() {
    let devices = [device("a", &[], &[]), device("b", &["Rope"], &[])];
    let e = planned(&devices, &pins(&["layers.2=b"])).unwrap_err();
    let text = e.to_string();
    assert!(
        text.contains("layers.2=b") && text.contains("no Rope"),
        "{text}"
    );
    let RuntimeError::PinRefused { nodes, .. } = e else {
        panic!("{e}");
    };
    assert_eq!(nodes.len(), 2);
    let e = planned(&devices, &pins(&["layers.2=c"]))
        .unwrap_err()
        .to_string();
    assert!(e.contains("'c'") && e.contains("a, b"), "{e}");
    assert!(planned(&devices, &pins(&["layers.9=b"])).is_err());
}

#[test]
fn a_requirement_pins_every_layer_unless_a_pin_names_the_device() {
    let devices = [device("a", &[], &[]), device("b", &[], &[])];
    let mut placement = Placement {
        require: Some("b".into()),
        ..Placement::default()
    };
    let set = planned(&devices, &placement).unwrap();
    // what belongs to no layer is cheapest beside the layers
    assert_eq!(segments(&set), [("b".to_owned(), Some([0, 3]))]);
    placement.pins = vec!["*=a".parse().unwrap(), "layers.3=b".parse().unwrap()];
    let set = planned(&devices, &placement).unwrap();
    assert_eq!(segments(&set)[1], ("b".to_owned(), Some([3, 3])));
    placement.require = Some("c".into());
    assert!(planned(&devices, &placement).is_err());
    placement.require = Some("a".into());
    placement.pins = vec!["layers.3=b".parse().unwrap()];
    let e = planned(&devices, &placement).unwrap_err().to_string();
    assert!(
        e.contains("'a' is required for layers.3.") && e.contains("'b'"),
        "{e}"
    );
}

#[test]
fn what_a_validator_refuses_goes_elsewhere() {
    let devices = [device("npu", &[], &["Attention"]), device("cpu", &[], &[])];
    let set = planned(&devices, &Placement::default()).unwrap();
    assert_eq!(segments(&set), [("cpu".to_owned(), Some([0, 3]))]);
    let only = [device("npu", &[], &["Attention"])];
    let e = planned(&only, &Placement::default())
        .unwrap_err()
        .to_string();
    assert!(e.contains("4 node(s)") && e.contains("no Attention"), "{e}");
}

#[test]
fn where_no_device_runs_all_each_node_goes_to_one_that_does() {
    let devices = [
        device("npu", &["RmsNorm"], &[]),
        device("odd", &["Linear"], &[]),
    ];
    let set = planned(&devices, &Placement::default()).unwrap();
    for (why, node) in set.decode.why.iter().zip(tiny_llama(4).graph().nodes()) {
        let only = match node.op.name() {
            "Linear" => Some(0),
            "RmsNorm" => Some(1),
            _ => None,
        };
        if let Some(only) = only {
            assert_eq!(why.device, DeviceIndex(only), "{}", node.name);
        }
        assert_eq!(why.because == Because::Only, only.is_some());
    }
    assert!(planned(&[], &Placement::default()).is_err());
}

#[test]
fn partitions_cover_the_graph_in_order_and_times_add_up() {
    let devices = [device("a", &[], &[]), device("b", &[], &[])];
    let set = planned(&devices, &pins(&["*=a", "*.ffn*=b"])).unwrap();
    for phase in Phase::ALL {
        let plan = set.phase(phase);
        let mut next = 0;
        for p in &plan.partitions {
            assert_eq!(p.nodes.start, next);
            next = p.nodes.end;
        }
        assert_eq!(next as usize, plan.why.len());
        let sum: f64 = plan.partitions.iter().map(|p| p.predicted.us).sum();
        // copies are the rest
        assert!(sum < plan.total.us);
    }
    assert!(set.prefill.total.us > set.decode.total.us);
}
