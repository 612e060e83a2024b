//! Bugs planted in the template in C, one line each: the suite fails and names the op or the case.

use crate::{build_c, certify, root};

/// A bug: text of the template, which stands there once, what stands there instead, which cases are run, and how the
/// op or the id of a case that fails begins.
#[track_caller]
fn is_found(from: &str, to: &str, cases: &str, blamed: &str) {
    let source = std::fs::read_to_string(root().join("backends/template/c/template.c"));
    let source = source.expect("the template");
    assert_eq!(source.matches(from).count(), 1, "'{from}' in the template");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("mutant.c");
    std::fs::write(&file, source.replace(from, to)).expect("the mutant");
    let library = build_c(&file, folder.path());
    let verdict = certify(&library, &["--quick", "--patience", "2", "--filter", cases]);
    let failures = verdict.failures();
    assert_eq!(verdict.status, Some(1), "{}", verdict.output);
    let named = |(op, id): &(&str, &str)| *op == blamed || id.starts_with(blamed);
    assert!(failures.iter().any(named), "{blamed} in {failures:?}");
}

macro_rules! mutants {
    ($($name:ident: $from:literal => $to:literal, $cases:literal, $blamed:literal;)*) => {
        $(#[test]
        fn $name() {
            is_found($from, $to, $cases, $blamed);
        })*
    };
}

mutants! {
    a_wrong_epsilon: "(double)n + eps)" => "(double)n + 2 * eps)", "op/rms_norm/*", "RmsNorm";
    a_mean_over_another_count: "sum / (double)n" => "sum / (double)(n + 1)", "op/rms_norm/*", "RmsNorm";
    a_loop_that_ends_early: "i < k; i++" => "i + 1 < k; i++", "op/linear/*", "Linear";
    a_stride_of_rows_that_is_ignored: "x += k, y += n" => "y += n", "op/linear/*", "Linear";
    a_stride_of_bindings_that_is_ignored: "s->binding_stride, t->index" => "sizeof *list, t->index", "op/gated_*", "GatedActivation";
    a_stride_of_nodes_that_is_ignored: "g->node_stride, i));" => "sizeof(anynpu_node), i));", "graph/*", "graph/";
    a_missing_bias: "bias ? element(bias, c) : 0" => "0", "op/linear/*", "Linear";
    a_wrong_row_of_the_matrix: "element(w, c * k + i)" => "element(w, (n - 1 - c) * k + i)", "op/linear/*", "Linear";
    a_wrong_scale_of_blocks: "* half(block)" => "* half(block + 2)", "op/linear/*", "Linear";
    a_sigmoid_without_its_factor: "gate[i] / (1 +" => "1 / (1 +", "op/gated_*", "GatedActivation";
    an_element_past_the_end: "y[c] = (float)sum;" => "y[c] = y[c + 1] = (float)sum;", "op/linear/*", "Linear";
    a_function_it_does_not_run: "!= ANYNPU_ACTIVATION_SILU" => "< 0", "op/gated_*", "GatedActivation";
    a_type_it_does_not_read: "|| v->dtype == ANYNPU_DTYPE_Q8_0;" => "|| v->dtype >= ANYNPU_DTYPE_Q4_0;", "op/linear/*", "Linear";
    a_verdict_on_another_node: "tell(context, i," => "tell(context, i + 1,", "graph/*", "graph/";
    an_operand_that_is_changed: "sum += (double)x[i] * x[i];" => "sum += (double)x[i] * x[i]; ((float *)x)[0] = 0;", "op/rms_norm/*", "RmsNorm";
    the_largest_size_instead_of_this_one: "s->symbols[i] : 0;" => "p->extents[i].limit : 0;", "op/*/symbolic", "op/";
    an_end_that_is_never_told: "host->signal(host->context, s->done, ANYNPU_OK, (anynpu_text)TEXT(\"\"));" => "", "op/rms_norm/f32*", "RmsNorm";
    a_refusal_that_is_forgotten: "if (refused) return" => "if (refused > 1000000) return", "verdict/*", "verdict/";
    a_progress_past_the_end: "r->progress(r->context, m->count," => "r->progress(r->context, m->count + 1,", "compile/*", "compile/progress";
    steps_that_are_leaked: "free(p->tensors), free(p->steps), p++" => "free(p->tensors), p++", "leak/100_rounds", "leak/";
    a_module_that_is_leaked: "free(m->programs), free(m);" => "memset(host->allocate(host->context, 1 << 17, 64), 1, 1 << 17);", "leak/100_rounds", "leak/";
    a_crash: "const program *p = &m->programs[s->entry];" => "const program *p = NULL;", "op/rms_norm/f32*", "RmsNorm";
}
