//! Packages: who may depend on whom, and what every manifest says.

use std::path::Path;

use serde_json::Value;

use crate::{metadata, report, root};

/// A package of the workspace.
struct Package {
    name: String,
    /// Its folder, from the top, with `/`.
    folder: String,
    licence: Option<String>,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    kind: Kind,
    /// The folder, if it is a package of the workspace.
    folder: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Normal,
    Dev,
    Build,
}

/// What a folder's package may use of the workspace: always, and in its tests besides.
struct Rule {
    normal: &'static [&'static str],
    dev: &'static [&'static str],
}

/// Packages below the applications, the tests and the benches.
const BELOW: &[&str] = &["graphs/ir", "graphs", "hal", "runtime", "backends/all"];

/// The rule for the package in `folder`; none is a fault, so that a new folder gets one here.
/// `backends/*` stands for every backend.
fn rule(folder: &str) -> Option<Rule> {
    let rule = |normal, dev| Some(Rule { normal, dev });
    match folder {
        "graphs/ir" | "hal/abi" => rule(&[], &[]),
        "hal" => rule(&["graphs/ir", "hal/abi"], &[]),
        "graphs" => rule(&["graphs/ir"], &[]),
        "backends/common" => rule(&["graphs/ir", "hal"], &[]),
        "backends/all" => rule(&["graphs/ir", "hal", "backends/*"], &[]),
        // A simulated device computes on another, in its tests on the CPU.
        "backends/sim" => rule(
            &["graphs/ir", "hal", "hal/abi", "backends/common"],
            &["backends/cpu"],
        ),
        // A plugin is built as one out of the tree would be.
        "backends/template/rust" => rule(&["hal/abi"], &[]),
        "runtime" => rule(
            &["graphs/ir", "graphs", "hal"],
            &["backends/cpu", "backends/sim"],
        ),
        "runtime/anynpu" => rule(BELOW, &[]),
        "runtime/cli" => rule(
            &[
                "graphs/ir",
                "graphs",
                "hal",
                "runtime",
                "backends/all",
                "runtime/anynpu",
            ],
            &["tests/doubles/*"],
        ),
        "tests" | "benches" => rule(
            &[
                "graphs/ir",
                "graphs",
                "hal",
                "runtime",
                "backends/all",
                "backends/*",
                "runtime/anynpu",
            ],
            &["tests", "tests/doubles/*"],
        ),
        // Stand-ins for vendors' libraries share no mistake with what is tested against them.
        _ if folder.starts_with("tests/doubles/") => rule(&[], &[]),
        _ if folder
            .strip_prefix("backends/")
            .is_some_and(|f| !f.contains('/')) =>
        {
            rule(&["graphs/ir", "hal", "hal/abi", "backends/common"], &[])
        }
        _ => None,
    }
}

fn admits(allowed: &[&str], folder: &str) -> bool {
    allowed.iter().any(|a| match a.strip_suffix("/*") {
        Some(parent) => folder
            .strip_prefix(parent)
            .is_some_and(|rest| rest.starts_with('/') && rest != "/all"),
        None => *a == folder,
    })
}

/// Registry packages that only some folders may use, and what speaks for it.
const RESERVED: &[(&str, &[&str], &str)] = &[
    (
        "anyhow",
        &["runtime/cli", "tests"],
        "libraries have typed errors",
    ),
    (
        "clap",
        &["runtime/cli", "tests", "benches"],
        "only binaries have a command line",
    ),
    (
        "ctrlc",
        &["runtime/cli"],
        "a library takes no signal from its application",
    ),
    ("indicatif", &["runtime/cli"], "libraries never print"),
    (
        "tracing-subscriber",
        &["runtime/cli"],
        "the application chooses where logs go",
    ),
    ("criterion", &["benches"], "benchmarks live in benches/"),
    (
        "memmap2",
        &["graphs", "hal"],
        "files are mapped in graphs, memory is shared with helpers in hal",
    ),
    ("libloading", &["hal"], "libraries are loaded in hal alone"),
];

/// Faults in who depends on whom.
fn dependency_faults(packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for p in packages {
        let Some(rule) = rule(&p.folder) else {
            faults.push(format!(
                "{} ({}): no rule says what it may depend on; add the folder to rule() here and \
                 to docs/layout.md",
                p.name, p.folder
            ));
            continue;
        };
        for d in &p.dependencies {
            match &d.folder {
                Some(folder) => {
                    let allowed = admits(rule.normal, folder)
                        || (d.kind == Kind::Dev && admits(rule.dev, folder));
                    if !allowed {
                        faults.push(format!(
                            "{} ({}) must not depend on {} ({folder}, {:?}); it may use {:?}, and \
                             in its tests {:?}",
                            p.name, p.folder, d.name, d.kind, rule.normal, rule.dev
                        ));
                    }
                }
                None => {
                    let reserved = RESERVED.iter().find(|(name, ..)| *name == d.name);
                    if let Some((_, folders, why)) = reserved
                        && !folders.contains(&p.folder.as_str())
                    {
                        faults.push(format!(
                            "{} ({}) must not depend on {}: {why} (allowed in {folders:?})",
                            p.name, p.folder, d.name
                        ));
                    }
                    if p.folder == "hal/abi" && d.kind != Kind::Dev {
                        faults.push(format!(
                            "{} ({}) must have no dependencies, not {}",
                            p.name, p.folder, d.name
                        ));
                    }
                }
            }
        }
    }
    faults
}

/// Faults in what `manifest`, the text of `name`'s Cargo.toml in `folder`, says.
fn manifest_faults(name: &str, folder: &str, manifest: &str) -> Vec<String> {
    let table: toml::Table = match manifest.parse() {
        Ok(table) => table,
        Err(e) => return vec![format!("{name}: {e}")],
    };
    let mut faults = Vec::new();
    let inherits = |value: Option<&toml::Value>| {
        value
            .and_then(|v| v.get("workspace"))
            .and_then(toml::Value::as_bool)
            == Some(true)
    };
    if !inherits(table.get("lints")) {
        faults.push(format!("{name}: add `[lints] workspace = true`"));
    }
    for field in ["version", "edition", "rust-version", "license", "publish"] {
        let found = table.get("package").and_then(|p| p.get(field));
        // that the licence is the folder's own is checked with all packages' licences
        let own = field == "license" && licence(folder) == "0BSD";
        if !own && !inherits(found) {
            faults.push(format!("{name}: write `{field}.workspace = true`"));
        }
    }
    let described = table.get("package").and_then(|p| p.get("description"));
    if described
        .and_then(toml::Value::as_str)
        .is_none_or(str::is_empty)
    {
        faults.push(format!("{name}: say in `description` what it is"));
    }
    let empty = toml::Table::new();
    let targets = table
        .get("target")
        .and_then(toml::Value::as_table)
        .unwrap_or(&empty);
    let holders = std::iter::once(&table).chain(targets.values().filter_map(toml::Value::as_table));
    for holder in holders {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = holder
                .get(kind)
                .and_then(toml::Value::as_table)
                .unwrap_or(&empty);
            for (dependency, value) in dependencies {
                if !inherits(Some(value)) {
                    faults.push(format!(
                        "{name}: {dependency} in [{kind}] must be `workspace = true`, its version \
                         stands once in the root's [workspace.dependencies]"
                    ));
                }
            }
        }
    }
    faults
}

/// The workspace's packages out of `cargo metadata --no-deps`.
fn packages(metadata: &Value) -> Result<Vec<Package>, String> {
    let text = |value: &Value, key: &str| -> Result<String, String> {
        let found = value[key]
            .as_str()
            .ok_or_else(|| format!("no '{key}' in {value}"))?;
        Ok(found.to_owned())
    };
    let top = text(metadata, "workspace_root")?;
    let within = |path: &str| -> Option<String> {
        let rest = Path::new(path).strip_prefix(&top).ok()?;
        let parts: Vec<_> = rest.iter().map(|p| p.to_string_lossy()).collect();
        Some(parts.join("/"))
    };
    let list = metadata["packages"].as_array().ok_or("no packages")?;
    let mut packages = Vec::new();
    for p in list {
        let manifest = text(p, "manifest_path")?;
        let folder = Path::new(&manifest).parent().and_then(|f| f.to_str());
        let folder = folder
            .and_then(within)
            .ok_or_else(|| format!("{manifest} is not in {top}"))?;
        let mut dependencies = Vec::new();
        for d in p["dependencies"].as_array().ok_or("no dependencies")? {
            dependencies.push(Dependency {
                name: text(d, "name")?,
                kind: match d["kind"].as_str() {
                    Some("dev") => Kind::Dev,
                    Some("build") => Kind::Build,
                    _ => Kind::Normal,
                },
                folder: d["path"].as_str().and_then(within),
            });
        }
        packages.push(Package {
            name: text(p, "name")?,
            folder,
            licence: p["license"].as_str().map(str::to_owned),
            dependencies,
        });
    }
    Ok(packages)
}

fn workspace() -> Vec<Package> {
    packages(&metadata(&["--no-deps"]).expect("metadata")).expect("packages")
}

#[test]
fn packages_depend_only_on_what_lies_below_them() {
    let packages = workspace();
    assert!(
        packages.len() >= 10,
        "found only {} packages",
        packages.len()
    );
    report("who may depend on whom:", &dependency_faults(&packages));
}

/// The licence of the package in `folder`: templates may be taken anywhere.
fn licence(folder: &str) -> &'static str {
    match folder.starts_with("backends/template/") {
        true => "0BSD",
        false => "MIT OR Apache-2.0",
    }
}

#[test]
fn every_package_carries_the_projects_licence() {
    for p in workspace() {
        let expected = licence(&p.folder);
        assert_eq!(
            p.licence.as_deref(),
            Some(expected),
            "licence of {}",
            p.name
        );
    }
    for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert!(root().join(file).is_file(), "{file} is missing at the top");
    }
}

#[test]
fn manifests_inherit_lints_and_versions_from_the_workspace() {
    let mut faults = Vec::new();
    for p in workspace() {
        let path = root().join(&p.folder).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).expect("manifest");
        faults.extend(manifest_faults(&p.name, &p.folder, &manifest));
    }
    report("what every Cargo.toml says:", &faults);
}

fn package(folder: &str, dependencies: &[(&str, Kind)]) -> Package {
    Package {
        name: folder.replace('/', "-"),
        folder: folder.into(),
        licence: None,
        dependencies: dependencies
            .iter()
            .map(|&(name, kind)| Dependency {
                name: name.into(),
                kind,
                folder: (name.contains('/') || rule(name).is_some()).then(|| name.into()),
            })
            .collect(),
    }
}

#[test]
fn a_planted_dependency_is_found() {
    use Kind::{Build, Dev, Normal};
    let forbidden = [
        ("graphs/ir", "hal", Normal),
        ("graphs/ir", "hal", Dev),
        ("graphs", "hal", Normal),
        ("hal", "graphs", Dev),
        ("runtime", "backends/cpu", Normal),
        ("runtime", "backends/all", Dev),
        ("backends/cpu", "graphs", Dev),
        ("backends/cpu", "runtime", Normal),
        ("backends/qnn", "backends/cpu", Dev),
        ("backends/all", "backends/all", Normal),
        ("runtime/anynpu", "backends/cpu", Normal),
        ("runtime/cli", "tests", Dev),
        ("hal/abi", "graphs/ir", Normal),
        ("hal/abi", "thiserror", Build),
        ("backends/template/rust", "hal", Normal),
        ("tests/doubles/nnapi", "backends/nnapi", Dev),
        ("backends/nnapi", "tests/doubles/nnapi", Dev),
        ("runtime/cli", "tests/doubles/nnapi", Normal),
        ("runtime", "clap", Normal),
        ("hal", "anyhow", Dev),
        ("vendor/new", "thiserror", Normal),
    ];
    for (from, to, kind) in forbidden {
        let faults = dependency_faults(&[package(from, &[(to, kind)])]);
        assert_eq!(faults.len(), 1, "{from} → {to} ({kind:?}): {faults:?}");
        assert!(faults[0].contains(from), "{faults:?}");
    }
    let allowed = [
        ("hal", "graphs/ir", Normal),
        ("runtime", "backends/cpu", Dev),
        ("runtime", "backends/sim", Dev),
        ("backends/qnn", "backends/common", Normal),
        ("backends/all", "backends/qnn", Normal),
        ("runtime/cli", "runtime/anynpu", Normal),
        ("benches", "backends/cpu", Normal),
        ("runtime/cli", "tests/doubles/nnapi", Dev),
        ("runtime/cli", "clap", Normal),
        ("graphs", "thiserror", Normal),
    ];
    for (from, to, kind) in allowed {
        let faults = dependency_faults(&[package(from, &[(to, kind)])]);
        assert!(faults.is_empty(), "{from} → {to} ({kind:?}): {faults:?}");
    }
}

#[test]
fn a_planted_manifest_fault_is_found() {
    let good = "[package]\nname = 'x'\ndescription = 'X'\nversion.workspace = true\n\
                edition.workspace = true\nrust-version.workspace = true\n\
                license.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n\
                [dependencies]\nhalf.workspace = true\n";
    assert_eq!(manifest_faults("x", "hal", good), Vec::<String>::new());
    for (from, to, fault) in [
        ("half.workspace = true", "half = '2'", "half"),
        ("[lints]\nworkspace = true\n", "", "[lints]"),
        ("license.workspace = true", "license = 'MIT'", "license"),
        ("description = 'X'", "description = ''", "description"),
        (
            "[dependencies]\n",
            "[target.'cfg(unix)'.dev-dependencies]\nlibc = { version = '1' }\n[dependencies]\n",
            "libc",
        ),
    ] {
        let faults = manifest_faults("x", "hal", &good.replace(from, to));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(fault), "{faults:?}");
    }
    let own = good.replace("license.workspace = true", "license = '0BSD'");
    assert_eq!(
        manifest_faults("x", "backends/template/x", &own),
        Vec::<String>::new()
    );
}

/// Most lines of a template: what a newcomer reads before changing it.
const TEMPLATE_LINES: usize = 300;

#[test]
fn templates_are_short_and_may_be_taken_anywhere() {
    let folder = root().join("backends/template");
    assert!(folder.join("LICENSE-0BSD").is_file());
    for (template, files) in [("c", &["template.c"][..]), ("rust/src", &["lib.rs"][..])] {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder.join(template)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a source");
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let lines = text.lines().count();
            assert!(lines <= TEMPLATE_LINES, "{name} has {lines} lines");
            let first = text.lines().next().unwrap_or_default();
            assert!(
                first.ends_with("SPDX-License-Identifier: 0BSD"),
                "{name}: {first}"
            );
            found.push(name.into_owned());
        }
        assert_eq!(found, files, "what is in {template}");
    }
}

#[test]
fn packages_are_read_from_metadata() {
    let metadata = serde_json::json!({
        "workspace_root": "/w",
        "packages": [{
            "name": "anynpu-hal", "license": "MIT", "manifest_path": "/w/hal/Cargo.toml",
            "dependencies": [
                {"name": "anynpu-ir", "kind": null, "path": "/w/graphs/ir"},
                {"name": "proptest", "kind": "dev"},
            ],
        }],
    });
    let found = packages(&metadata).expect("packages");
    assert_eq!(found[0].folder, "hal");
    assert_eq!(
        found[0].dependencies[0].folder.as_deref(),
        Some("graphs/ir")
    );
    assert_eq!(found[0].dependencies[1].kind, Kind::Dev);
    assert_eq!(found[0].licence.as_deref(), Some("MIT"));
    assert!(packages(&serde_json::json!({})).is_err());
}
