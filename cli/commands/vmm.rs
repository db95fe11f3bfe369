//! `district vmm [--tied PID]`: the process around one district. The daemon starts it; people do not.
//!
//! Its command line is not parsed like the others': building the parser for all commands takes 20 pages of memory and
//! 180 us, at every start of a district (`docs/performance.md`).

use std::ffi::OsString;

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The name of this command.
const NAME: &str = "vmm";
/// The option that ties the process to the one of the number that follows, which started it.
const TIED: &str = "--tied";

/// How the daemon asks for a vmm process that ends with it (`tied`), or for one that does not.
pub fn arguments(tied: bool) -> Vec<String> {
    let mut arguments = vec![NAME.to_owned()];
    if tied {
        arguments.extend([TIED.to_owned(), std::process::id().to_string()]);
    }
    arguments
}

/// Runs the vmm process, if that is what these arguments of the program, its name left out, ask for.
pub fn run_if_asked(mut arguments: impl Iterator<Item = OsString>) -> Option<Result<u8>> {
    if arguments.next()? != NAME {
        return None;
    }
    let arguments: Vec<_> = arguments.collect();
    Some(run(&arguments))
}

fn run(arguments: &[OsString]) -> Result<u8> {
    match arguments {
        [] => {}
        [option, pid] if option == TIED => {
            let parent: u32 = pid.to_str().and_then(|pid| pid.parse().ok()).context("--tied wants a process number")?;
            tie_to(parent)?;
        }
        _ => bail!("the daemon starts `district vmm`; `district run IMAGE` runs a program in a district"),
    }
    district_vmm::process::run()?;
    Ok(super::exit::SUCCESS)
}

fn tie_to(parent: u32) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot be tied to its parent")?;
    // One that died before that sends no signal any more.
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    anyhow::ensure!(now == Some(parent), "the process that started it has ended");
    Ok(())
}
