//! One tiny bad manifest per mistake, and the exact beginning of what is said about it.

use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

use super::image::ImageSearch;
use super::{MANIFEST_MAX, Manifest};
use crate::api::name::Name;
use crate::api::spec::{Checkpoints, Grant, Policy, Published, Target};
use district_protocol::layout::PROGRAM_BASE;
use district_protocol::rights::Rights;

/// The smallest program: one page of code, and `more` bytes of memory after it (ELF specification, 1-3 and 2-2).
fn program(more: u64) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, EV_CURRENT
    for word in [PROGRAM_BASE, 64, 0] {
        bytes.extend(word.to_le_bytes()); // entry point, program headers, section headers
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // one program header of 56 bytes
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, PF_R | PF_X
    for word in [0, PROGRAM_BASE, PROGRAM_BASE, 120, 4096 + more, 4096] {
        bytes.extend(word.to_le_bytes()); // offset, addresses, sizes, alignment
    }
    bytes
}

/// A folder with a program `ok`, and this manifest.
fn folder(manifest: impl AsRef<[u8]>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ok"), program(0)).unwrap();
    fs::write(folder.path().join("m.toml"), manifest).unwrap();
    folder
}

fn load_from(folder: &Path) -> Result<Manifest, String> {
    Manifest::load(&folder.join("m.toml"), &ImageSearch::default())
        .map_err(|mistakes| mistakes.to_string().replace(&format!("{}/", folder.display()), ""))
}

fn good(manifest: &str) -> Manifest {
    load_from(folder(manifest).path()).unwrap()
}

/// That there is exactly one mistake, and that what is said begins so.
#[track_caller]
fn bad(manifest: impl AsRef<[u8]>, beginning: &str) {
    let said = load_from(folder(manifest).path()).unwrap_err();
    assert!(said.starts_with(beginning), "said:\n{said}\nwanted:\n{beginning}");
    assert_eq!(said.matches("remedy: ").count(), 1, "{said}");
}

/// As [`bad`], for the fields of a district that is sound but for them; the first of them is on line 3.
#[track_caller]
fn bad_field(fields: &str, beginning: &str) {
    bad(format!("[districts.a]\nimage = \"ok\"\n{fields}\n"), beginning);
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[test]
fn a_district_with_an_image_and_nothing_else_has_the_defaults() {
    let manifest = good("[districts.a]\nimage = \"ok\"");
    let spec = &manifest.districts[0];
    assert_eq!((spec.memory, spec.window), (16 << 20, 2 << 20));
    assert_eq!(spec.restart.policy, Policy::OnFailure);
    assert!(spec.image.is_absolute() && spec.grants.is_empty() && spec.publishes.is_empty());
    assert_eq!(spec.check(), Ok(()));
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let manifest = good(
        r#"
        [districts.counter]
        image = "ok"
        memory = "8MiB"
        window = "512KiB"
        arguments = ["a", "b c"]
        restart = { policy = "always", backoff = "1s", backoff-max = "1min", intensity = 3, within = "1h" }
        checkpoints = { every = "1s", dirty-pages = 1000, cold-restart = true }
        publishes = ["count"]
        [districts.counter.limits]
        handles = 100
        queued-bytes = "1MiB"
        frames-per-second = 1000
        [districts.counter.grants]
        log = "host/log"
        commit = "host/checkpoint"
        limit = { number = 0xffff_ffff_ffff_ffff }

        [districts.alpha]
        image = "ok"
        [districts.alpha.grants]
        count = "counter/count"
        count-ro = { to = "counter/count", rights = ["call", "watch"] }

        [districts.beta]
        image = "ok"
        restart = "never"
        bootstrap = "counter/count"
        "#,
    );
    let [counter, alpha, beta] = &manifest.districts[..] else { panic!("{manifest:?}") };
    assert_eq!(counter.name, name("counter"));
    assert_eq!((counter.memory, counter.window), (8 << 20, 512 << 10));
    assert_eq!(counter.arguments, ["a", "b c"]);
    assert_eq!(counter.restart.policy, Policy::Always);
    assert_eq!(counter.restart.backoff_max, Duration::from_secs(60));
    assert_eq!((counter.restart.intensity, counter.restart.within), (3, Duration::from_secs(3600)));
    assert_eq!(counter.limits.handles, Some(100));
    assert_eq!(counter.limits.queued_bytes, Some(1 << 20));
    assert_eq!(counter.limits.calls, None);
    assert_eq!(counter.grants["log"], Grant::to(Target::Log));
    assert_eq!(counter.grants["commit"], Grant::to(Target::Checkpoint));
    assert_eq!(counter.grants["limit"], Grant::to(Target::Number(u64::MAX)));
    let count = Published { district: name("counter"), name: "count".into() };
    assert_eq!(alpha.grants["count"], Grant::to(Target::Published(count.clone())));
    assert_eq!(alpha.grants["count-ro"].rights, Some(Rights::CALL.union(Rights::WATCH)));
    assert_eq!(beta.bootstrap, Some(count));
    assert!(manifest.districts.iter().all(|spec| spec.check().is_ok()));
}

#[test]
fn the_file_itself() {
    bad("", "m.toml:1: the manifest is empty\n  remedy: add a table `[districts.NAME]`");
    bad("# nothing\n", "m.toml:1: the manifest is empty\n");
    bad("[districts]\n", "m.toml:1: the manifest has no district\n");
    bad(b"[districts.a]\nimage = \"ok\"\n# \xff", "m.toml:3: not UTF-8\n  remedy: save the file as UTF-8");
    bad(vec![b'#'; usize::try_from(MANIFEST_MAX).unwrap() + 1], "m.toml: has more than 1048576 bytes\n");
    bad("districts = 3", "m.toml:1: `districts` is an integer, not a table\n  remedy: write it like this: [districts]");
    let said = load_from(Path::new("/nowhere")).unwrap_err();
    assert!(said.starts_with("m.toml: cannot be read: No such file or directory"), "{said}");
}

#[test]
fn syntax() {
    bad("[districts.a\n", "m.toml:1: ");
    bad("[districts.a]\nimage = ok\n", "m.toml:2: ");
    bad(
        "[districts.a]\nimage = \"ok\"\n[districts.a]\n",
        "m.toml:3: duplicate key\n  remedy: each name can stand once",
    );
    bad_field("memory = \"1MiB\"\nmemory = \"2MiB\"", "m.toml:4: duplicate key\n");
}

#[test]
fn names_of_districts() {
    bad("[districts.A]\nimage = \"ok\"", "m.toml:1: district name \"A\" has the character 'A'\n  remedy: use 1 to 32");
    bad("[districts.\"\"]\nimage = \"ok\"", "m.toml:1: a district's name is empty\n");
    bad("[districts.\"../a\"]\nimage = \"ok\"", "m.toml:1: district name \"../a\" has the character '.'\n");
    bad("[districts.host]\nimage = \"ok\"", "m.toml:1: no district can have the name `host`\n");
    let long = "x".repeat(33);
    bad(
        format!("[districts.{long}]\nimage = \"ok\""),
        &format!("m.toml:1: district name `{long}` has 33 characters\n"),
    );
}

#[test]
fn unknown_fields() {
    bad_field("memry = \"1MiB\"", "m.toml:3: unknown field `memry` in district `a`\n  remedy: did you mean `memory`?");
    bad_field("x = 1", "m.toml:3: unknown field `x` in district `a`\n  remedy: use one of `image`, `memory`, ");
    bad_field("limits.handels = 1", "m.toml:3: unknown field `handels` in `limits`\n  remedy: did you mean `handles`?");
    bad_field("grants.x = { to = \"host/log\", right = [] }", "m.toml:3: unknown field `right` in grant `x`\n");
    bad_field("restart = { polcy = \"never\" }", "m.toml:3: unknown field `polcy` in `restart`\n");
    bad("[districts.a]\nimage = \"ok\"\n[district.b]\n", "m.toml:3: unknown field `district` in the manifest\n");
}

#[test]
fn images() {
    bad("[districts.a]\n", "m.toml:1: district `a` has no image\n  remedy: add a line `image = \"FILE\"`");
    bad(
        "[districts.a]\nimage = 3",
        "m.toml:2: `image` is an integer, not a string\n  remedy: write it like this: image = ",
    );
    bad("[districts.a]\nimage = \"\"", "m.toml:2: image \"\" is no path\n");
    bad("[districts.a]\nimage = \".\"", "m.toml:2: image . cannot be used: it is no regular file\n");
    bad("[districts.a]\nimage = \"m.toml\"", "m.toml:2: image m.toml cannot be used: not an ELF file\n");

    let folder = folder("[districts.a]\nimage = \"none\"");
    let images = ImageSearch { folder: Some("/images".into()) };
    let said = Manifest::load(&folder.path().join("m.toml"), &images).unwrap_err().to_string();
    let wanted = format!("no image `none`; looked for {}/none and /images/none\n", folder.path().display());
    assert!(said.contains(&wanted), "{said}");
    assert!(said.ends_with("say where images are with --images DIR or DISTRICT_IMAGES"), "{said}");
}

#[test]
fn an_image_beside_the_manifest_comes_before_one_elsewhere() {
    let (here, elsewhere) = (folder("[districts.a]\nimage = \"ok\"\n[districts.b]\nimage = \"other\""), folder(""));
    fs::write(elsewhere.path().join("other"), program(0)).unwrap();
    let images = ImageSearch { folder: Some(elsewhere.path().to_owned()) };
    let manifest = Manifest::load(&here.path().join("m.toml"), &images).unwrap();
    assert!(manifest.districts[0].image.starts_with(here.path().canonicalize().unwrap()));
    assert!(manifest.districts[1].image.starts_with(elsewhere.path().canonicalize().unwrap()));
}

#[test]
fn memory_and_window() {
    bad_field(
        "memory = 8388608",
        "m.toml:3: `memory` is an integer, not a string\n  remedy: write it like this: memory = \"8MiB\"",
    );
    bad_field("memory = \"8MB\"", "m.toml:3: `memory` of \"8MB\" is no size\n  remedy: write a whole number and KiB");
    bad_field("memory = \"512KiB\"", "m.toml:3: memory of 512KiB is too small\n  remedy: memory is 1MiB to 64GiB");
    bad_field("memory = \"65GiB\"", "m.toml:3: memory of 65GiB is too large\n");
    bad_field(
        "memory = \"1025KiB\"",
        "m.toml:3: memory of 1049600 bytes is not a whole number of pages of 4096 bytes\n  remedy: the next that is one is \"1028KiB\"",
    );
    bad_field("memory = \"99999999999GiB\"", "m.toml:3: `memory` of \"99999999999GiB\" is no size\n");
    bad_field("window = \"4KiB\"", "m.toml:3: window of 4KiB is too small\n  remedy: window is 256KiB to 256MiB");
}

#[test]
fn memory_that_the_program_does_not_fit() {
    let folder = |fields: &str| {
        let folder = folder(format!("[districts.a]\nimage = \"big\"\n{fields}"));
        fs::write(folder.path().join("big"), program(20 << 20)).unwrap();
        folder
    };
    let said = load_from(folder("memory = \"20MiB\"").path()).unwrap_err();
    assert!(said.starts_with("m.toml:3: memory of 20MiB is too small: the program needs 20"), "{said}");
    let said = load_from(folder("").path()).unwrap_err();
    assert!(said.starts_with("m.toml:1: memory of 16MiB is too small: the program needs 20"), "{said}");
    let remedy = said.split('"').nth(1).unwrap();
    load_from(folder(&format!("memory = \"{remedy}\"")).path()).unwrap();
}

#[test]
fn arguments() {
    bad_field("arguments = \"a\"", "m.toml:3: `arguments` is a string, not an array\n");
    bad_field("arguments = [\"a\", 3]", "m.toml:3: `arguments` is an integer, not a string\n");
    bad_field("arguments = [\"a\\u0000\"]", "m.toml:3: argument 1 has a NUL character in it\n");
    let long = format!("arguments = [\"{}\", \"\"]", "x".repeat(3583));
    bad_field(&long, "m.toml:3: the arguments have 3585 bytes, with one more for each; 3584 fit the boot page\n");
}

#[test]
fn restart() {
    bad_field(
        "restart = \"allways\"",
        "m.toml:3: unknown restart policy \"allways\"\n  remedy: did you mean `always`?",
    );
    bad_field("restart = true", "m.toml:3: `restart` is neither a string nor a table but: boolean\n");
    bad_field("restart = { backoff = \"1\" }", "m.toml:3: `backoff` of \"1\" is no duration\n");
    bad_field(
        "restart = { backoff = \"0ms\" }",
        "m.toml:3: backoff of 0ms is out of range\n  remedy: backoff is 1ms to 24h",
    );
    bad_field("restart = { within = \"25h\" }", "m.toml:3: within of 25h is out of range\n");
    bad_field("restart = { intensity = 0 }", "m.toml:3: intensity is 0\n  remedy: write `policy = \"never\"`");
    bad_field("restart = { intensity = -1 }", "m.toml:3: `intensity` of -1 is out of range\n");
    bad_field("restart = { backoff = \"2s\", backoff-max = \"1s\" }", "m.toml:3: backoff is longer than backoff-max\n");
    let patient = good("[districts.a]\nimage = \"ok\"\nrestart = { backoff = \"1min\" }");
    assert_eq!(patient.districts[0].restart.backoff_max, Duration::from_secs(60));
}

#[test]
fn checkpoints() {
    bad_field(
        "checkpoints = \"on-demnd\"",
        "m.toml:3: unknown `checkpoints` \"on-demnd\"\n  remedy: did you mean `on-demand`?",
    );
    bad_field(
        "checkpoints = \"1s\"",
        "m.toml:3: unknown `checkpoints` \"1s\"\n  remedy: use one of `none`, `on-demand`",
    );
    bad_field(
        "checkpoints = true",
        "m.toml:3: `checkpoints` is neither a string nor a table but: boolean\n  remedy: write `checkpoints = { every",
    );
    bad_field("checkpoints = {}", "m.toml:3: `checkpoints` is an empty table\n  remedy: write `checkpoints = \"on-de");
    bad_field(
        "checkpoints = { evry = \"1s\" }",
        "m.toml:3: unknown field `evry` in `checkpoints`\n  remedy: did you mean `every`?",
    );
    bad_field("checkpoints = { every = 1 }", "m.toml:3: `every` is an integer, not a string\n");
    bad_field("checkpoints = { every = \"1\" }", "m.toml:3: `every` of \"1\" is no duration\n");
    bad_field(
        "checkpoints = { every = \"0s\" }",
        "m.toml:3: every of 0ms is out of range\n  remedy: every is 1ms to 24h",
    );
    bad_field("checkpoints = { every = \"25h\" }", "m.toml:3: every of 25h is out of range\n");
    bad_field("checkpoints = { dirty-pages = \"many\" }", "m.toml:3: `dirty-pages` is a string, not an integer\n");
    bad_field("checkpoints = { dirty-pages = -1 }", "m.toml:3: `dirty-pages` of -1 is out of range\n");
    bad_field(
        "checkpoints = { dirty-pages = 0 }",
        "m.toml:3: dirty-pages is 0\n  remedy: leave it out if pages shall not be counted",
    );
    bad_field(
        "checkpoints = { every = \"1s\", cold-restart = 1 }",
        "m.toml:3: `cold-restart` is no boolean but: integer\n  remedy: write `cold-restart = true`",
    );
    bad_field("checkpoints.every = \"1s\"\ncheckpoints = \"none\"", "m.toml:4: duplicate key\n");
}

#[test]
fn checkpoints_that_cannot_be() {
    bad_field(
        "memory = \"1MiB\"\ncheckpoints = { dirty-pages = 257 }",
        "m.toml:4: dirty-pages of 257 is more than the 256 pages that the district has\n  remedy: use fewer",
    );
    bad_field(
        "checkpoints = { every = \"1s\", cold-restart = true }\nrestart = \"never\"",
        "m.toml:3: cold-restart says how a district is started again that never is\n  remedy: leave it out",
    );
    let spec = |fields: &str| good(&format!("[districts.a]\nimage = \"ok\"\n{fields}")).districts.remove(0);
    assert_eq!(spec("").checkpoints, None);
    assert_eq!(spec("checkpoints = \"none\"").checkpoints, None);
    assert_eq!(spec("checkpoints = \"on-demand\"").checkpoints, Some(Checkpoints::default()));
    let all = spec("checkpoints = { every = \"20ms\", dirty-pages = 4096, cold-restart = true }");
    let every = Some(Duration::from_millis(20));
    assert_eq!(all.checkpoints, Some(Checkpoints { every, dirty_pages: Some(4096), cold_restart: true }));
    assert_eq!(all.check(), Ok(()));
    let cold = spec("checkpoints = { cold-restart = true }");
    assert_eq!(cold.checkpoints, Some(Checkpoints { cold_restart: true, ..Checkpoints::default() }));
}

#[test]
fn published_names() {
    bad_field("publishes = [\"x\", \"x\"]", "m.toml:3: `x` is published twice\n");
    bad_field("publishes = [\"a/b\"]", "m.toml:3: published name \"a/b\" cannot be looked up\n");
    bad_field("publishes = [\"\"]", "m.toml:3: published name is empty\n");
    let long = format!("publishes = [\"{}\"]", "x".repeat(248));
    bad_field(&long, "m.toml:3: published name of 248 bytes is too long for a path\n  remedy: use 1 to 247 bytes");
}

#[test]
fn limits() {
    bad_field("limits = 3", "m.toml:3: `limits` is an integer, not a table\n");
    bad_field("limits.handles = 0", "m.toml:3: `handles` is 0\n  remedy: use at least 1");
    bad_field("limits.handles = 4294967296", "m.toml:3: `handles` of 4294967296 is out of range\n");
    bad_field("limits.calls = \"many\"", "m.toml:3: `calls` is a string, not an integer\n");
    bad_field("limits.queued-bytes = 3", "m.toml:3: `queued-bytes` is an integer, not a string\n");
}

#[test]
fn grants() {
    bad_field("grants.x = 3", "m.toml:3: grant `x` is neither a string nor a table but: integer\n");
    bad_field("grants.x = \"log\"", "m.toml:3: \"log\" does not say whose it is\n");
    bad_field("grants.x = \"host/logs\"", "m.toml:3: the host serves no \"logs\"\n  remedy: did you mean `log`?");
    bad_field("grants.x = \"A/b\"", "m.toml:3: district name \"A\" has the character 'A'\n");
    bad_field("grants.x = { number = -1 }", "m.toml:3: `number` of -1 is out of range\n");
    bad_field("grants.x = { number = 18446744073709551616 }", "m.toml:3: `number` of 18446744073709551616 is out");
    bad_field("grants.x = { }", "m.toml:3: grant `x` has neither `to` and `number`\n");
    bad_field("grants.x = { to = \"host/log\", number = 1 }", "m.toml:3: grant `x` has both `to` and `number`\n");
    bad_field(
        "grants.x = { to = \"host/log\", rights = [\"cal\"] }",
        "m.toml:3: unknown right \"cal\"\n  remedy: did you mean `call`?",
    );
    bad_field("grants.x = { to = \"host/log\", rights = [] }", "m.toml:3: `rights` is empty\n");
    bad_field(
        "grants.x = { to = \"host/log\", rights = [\"call\", \"call\"] }",
        "m.toml:3: right `call` is there twice\n",
    );
    bad_field("grants.publish = \"host/log\"", "m.toml:3: no grant can have the name `publish`\n");
    bad_field("grants.\"a/b\" = \"host/log\"", "m.toml:3: grant name \"a/b\" cannot be looked up\n");
    let long = format!("grants.{} = \"host/log\"", "x".repeat(256));
    bad_field(&long, "m.toml:3: grant name of 256 bytes is too long for a path\n");
}

#[test]
fn what_other_districts_publish() {
    let b = "\n[districts.counter]\nimage = \"ok\"\npublishes = [\"count\"]";
    bad_field(
        &format!("grants.x = \"conter/count\"{b}"),
        "m.toml:3: unknown district `conter`\n  remedy: did you mean `counter`?",
    );
    bad_field(
        &format!("grants.x = {{ to = \"counter/cuont\" }}{b}"),
        "m.toml:3: district `counter` does not publish `cuont`\n  remedy: did you mean `count`?; or add it to `publishes`",
    );
    bad_field("grants.x = \"a/y\"", "m.toml:3: district `a` does not publish `y`\n  remedy: add `publishes = [\"y\"]`");
}

#[test]
fn bootstrap() {
    bad_field("bootstrap = \"host/log\"", "m.toml:3: bootstrap `host/log` is not a district's\n");
    bad_field("bootstrap = \"b/x\"", "m.toml:3: unknown district `b`\n");
    bad_field(
        "bootstrap = \"b/x\"\ngrants.log = \"host/log\"\n[districts.b]\nimage = \"ok\"\npublishes = [\"x\"]",
        "m.toml:3: district `a` has grants and a bootstrap\n",
    );
    bad_field("publishes = [\"x\"]\nbootstrap = \"a/x\"", "m.toml:4: bootstrap cycle: a -> a\n");
    let ring = |names: &[(&str, &str)]| {
        let one = |(name, next): &(&str, &str)| {
            format!("[districts.{name}]\nimage = \"ok\"\npublishes = [\"x\"]\nbootstrap = \"{next}/x\"\n")
        };
        names.iter().map(one).collect::<String>()
    };
    bad(ring(&[("a", "b"), ("b", "a")]), "m.toml:4: bootstrap cycle: a -> b -> a\n  remedy: each of them needs");
    // The way into a ring is not part of it.
    bad(ring(&[("a", "b"), ("b", "c"), ("c", "b")]), "m.toml:8: bootstrap cycle: b -> c -> b\n");
    bad(ring(&[("c", "b"), ("b", "a"), ("a", "c")]), "m.toml:4: bootstrap cycle: c -> b -> a -> c\n");
}

#[test]
fn all_mistakes_are_reported_in_the_order_of_the_file() {
    let manifest =
        "[districts.B]\nmemory = \"1B\"\n[districts.a]\nimage = \"none\"\nrestart = \"no\"\ngrants.x = \"c/d\"\n";
    let said = load_from(folder(manifest).path()).unwrap_err();
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("m.toml:")).map(|line| &line[..8]).collect();
    assert_eq!(lines, ["m.toml:1", "m.toml:1", "m.toml:2", "m.toml:4", "m.toml:5", "m.toml:6"], "{said}");
}

#[test]
fn the_example_of_the_documentation_is_right() {
    let text = include_str!("../../docs/manifest.md");
    let example = text.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = folder(example);
    for image in ["counter", "reader", "guest"] {
        fs::write(folder.path().join(image), program(0)).unwrap();
    }
    let manifest = load_from(folder.path()).unwrap();
    let [counter, reader, guest] = &manifest.districts[..] else { panic!("{manifest:?}") };
    assert_eq!(reader.restart.backoff_max, Duration::from_secs(10));
    assert!(guest.bootstrap.is_some());
    assert!(counter.checkpoints.is_some_and(|checkpoints| checkpoints.every.is_some()));
    assert!(reader.checkpoints.is_none());
    let (said, limits) = (counter.limits, district_broker::Limits::default());
    assert_eq!(said.handles, Some(limits.handles));
    assert_eq!(said.exports, Some(limits.exports));
    assert_eq!(said.queued_bytes, Some(limits.queued_bytes));
    assert_eq!(said.watches, Some(limits.watches));
    assert_eq!(said.bindings, Some(limits.bindings));
    assert_eq!(said.frames_per_second, Some(limits.frames_per_second));
    assert_eq!(said.calls, Some(limits.calls));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "(\\[districts\\.[a-c\"]\\]|[a-z-]+ = |\\{|\\}|\\[|\\]|\"ok\"|\"host/[a-z]*\"|[0-9]+|\\n|,|\\PC){0,40}") {
        let _ = load_from(folder(text).path());
    }
}
