//! The command line, as far as it goes without KVM and without a daemon.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The command with nothing of the caller's environment that it listens to.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_district"));
    command.args(arguments).stdin(Stdio::null());
    for variable in ["DISTRICT_DIR", "DISTRICT_IMAGES", "XDG_STATE_HOME", "NO_COLOR"] {
        command.env_remove(variable);
    }
    command
}

fn district(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn folder(manifest: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.toml"), manifest).unwrap();
    folder
}

const COMMANDS: [&str; 19] = [
    "up",
    "run",
    "start",
    "stop",
    "restart",
    "remove",
    "ps",
    "logs",
    "inspect",
    "checkpoint",
    "checkpoints",
    "snapshot",
    "snapshots",
    "clone",
    "export",
    "import",
    "daemon",
    "doctor",
    "completions",
];

#[test]
fn every_command_has_help_with_an_example() {
    let all = stdout(&district(&["--help"]));
    for name in COMMANDS {
        assert!(all.contains(&format!("\n  {name} ")), "{name} is not in:\n{all}");
        let output = district(&[name, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        let help = stdout(&output);
        assert!(help.contains(&format!("  district {name}")), "no example in:\n{help}");
        assert!(help.contains("Example"), "{help}");
        assert!(help.lines().all(|line| line.chars().count() <= 120), "a long line in:\n{help}");
    }
    assert!(all.contains("Exit codes: 0 done; 1 "), "{all}");
    assert!(!all.contains("vmm"), "{all}");
    assert!(all.contains("[alias: rm]"), "{all}");
    assert_eq!(stdout(&district(&["rm", "--help"])), stdout(&district(&["remove", "--help"])));
}

#[test]
fn a_wrong_command_line_ends_with_2_and_a_hint() {
    for (arguments, hint) in [
        (&["inspekt"][..], "inspect"),
        (&["stop"], "NAME"),
        (&["stop", "No"], "district name \"No\" has the character 'N'; use 1 to 32"),
        (&["snapshot", "a", "--tag", "17"], "tag `17` is a number; numbers stand for generations"),
        (&["snapshot", "a", "--tag", "x/y"], "tag name \"x/y\" has the character '/'"),
        (&["restart", "a", "--from", "t", "--cold"], "cannot be used with"),
        (&["restart", "a", "--from", "18446744073709551616"], "is a number"),
        (&["start", "x.toml", "--cold"], "--from and --cold are about one district, not about a manifest"),
        (&["rm", "a", "b", "--snapshot", "t"], "a snapshot of several districts was named"),
        (&["clone", "a"], "NEW"),
        (&["import", "f"], "NAME"),
        (&["export", "a", "t"], "FILE"),
        (&["run", "x", "--memory", "8"], "\"8\" is no size; write a whole number and KiB"),
        (&["run", "x", "--grant", "x"], "\"x\" has no `=`; write NAME=TARGET"),
        (&["run", "x", "--grant", "x=host/x"], "the host serves no \"x\"; use one of `log`"),
    ] {
        let output = district(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(hint), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn up_reports_all_mistakes_of_a_manifest_and_touches_nothing() {
    let folder = folder("[districts.a]\nimage = \"none\"\nmemry = \"1MiB\"\n");
    let (manifest, state) = (folder.path().join("bad.toml"), folder.path().join("state"));
    let shown = manifest.display();
    for verb in ["up", "start"] {
        let output = district(&[verb, manifest.to_str().unwrap(), "--dir", state.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.starts_with(&format!("error: {shown}:2: no image `none`; looked for ")), "{said}");
        assert!(said.contains(&format!("\n{shown}:3: unknown field `memry` in district `a`\n")), "{said}");
        assert!(said.ends_with("  remedy: did you mean `memory`?\n"), "{said}");
        assert!(output.stdout.is_empty());
        assert!(!state.exists());
    }
}

#[test]
fn images_are_also_looked_for_where_the_option_or_the_environment_says() {
    let folder = folder("[districts.a]\nimage = \"none\"\n");
    let manifest = folder.path().join("bad.toml");
    let by_option = district(&["up", manifest.to_str().unwrap(), "--images", "/o"]);
    assert!(stderr(&by_option).contains(" and /o/none\n"), "{}", stderr(&by_option));
    let by_environment = command(&["up", manifest.to_str().unwrap()]).env("DISTRICT_IMAGES", "/e").output().unwrap();
    assert!(stderr(&by_environment).contains(" and /e/none\n"), "{}", stderr(&by_environment));
}

#[test]
fn without_a_daemon_its_clients_say_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    for arguments in [
        &["ps"][..],
        &["ps", "--json"],
        &["logs"],
        &["inspect"],
        &["stop", "a"],
        &["restart", "a"],
        &["remove", "a"],
        &["start", "a"],
        &["start", "a", "--cold"],
        &["rm", "a", "--snapshot", "t"],
        &["checkpoint", "a"],
        &["checkpoints", "a"],
        &["snapshot", "a"],
        &["snapshots"],
        &["clone", "a", "b"],
        &["export", "a", "t", "f"],
        &["import", "f", "a"],
    ] {
        let output = command(arguments).env("DISTRICT_DIR", state).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let wanted = format!("error: no daemon is running at {state}\n  remedy: start one with `district daemon`");
        assert!(stderr(&output).starts_with(&wanted), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_state_directory_with_a_long_path_is_refused_with_the_length_that_fits() {
    let long = format!("/tmp/{}", "x".repeat(100));
    let output = district(&["ps", "--dir", &long]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("has a path of 105 bytes\n  remedy: give one of at most 65 bytes"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn run_says_where_it_looked_for_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(&["run", "./none"]).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).starts_with("error: no image `./none`; looked for /"), "{}", stderr(&output));
}

#[test]
fn completions_are_scripts_for_the_shell() {
    for (shell, text) in [("bash", "complete -F"), ("zsh", "#compdef district"), ("fish", "complete -c district")] {
        let output = district(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let script = stdout(&output);
        assert!(script.contains(text), "{shell}");
        for name in COMMANDS.into_iter().chain(["rm", "--snapshot", "--from", "--cold", "--tag"]) {
            assert!(script.contains(name.trim_start_matches('-')), "{shell} does not know {name}");
        }
    }
}

#[test]
fn closed_output_is_no_error() {
    let mut child = command(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn doctor_names_each_thing_once_and_fits_its_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let output = district(&["doctor", "--json", "--dir", state.to_str().unwrap()]);
    let findings: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let findings = findings.as_array().unwrap();
    let bad = findings.iter().filter(|finding| finding["verdict"] == "bad").count();
    assert_eq!(output.status.code(), Some(i32::from(bad > 0)));
    for subject in ["KVM", "sealed memory", "seccomp", "processors", "clock", "memory", "open files", "state directory"]
    {
        assert_eq!(findings.iter().filter(|finding| finding["subject"] == subject).count(), 1, "{subject}");
    }
    for finding in findings.iter().filter(|finding| finding["verdict"] != "good") {
        assert!(finding["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{finding}");
    }
}

#[test]
fn doctor_finds_a_state_directory_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let output = district(&["doctor", "--dir", file.join("state").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("[x]  state directory  "), "{text}");
    assert!(text.contains("remedy: choose another one with --dir"), "{text}");
    assert!(text.contains("\nDistricts cannot run on this host: "), "{text}");
    assert!(!text.contains('\u{1b}'), "coloured though it is no terminal: {text}");
    assert!(Path::new(&file).is_file());
}
