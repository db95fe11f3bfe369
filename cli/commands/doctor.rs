//! `district doctor`: can this host run districts?

use anyhow::Result;
use clap::Args;

use super::{Place, exit};
use crate::doctor::{self, Finding, Verdict};
use crate::terminal::output::{Output, OutputError};
use crate::terminal::style::Style;

/// Check whether this host can run districts
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 districts can run; 1 they cannot.

Example:
  district doctor --json | jq '.[] | select(.verdict == \"bad\") | .remedy'")]
pub struct Doctor {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self, place: &Place) -> Result<u8> {
        let findings = doctor::examine(&place.state_dir());
        let output = Output::standard();
        if self.json {
            output.json(&findings)?;
        } else {
            print(&output, &findings)?;
        }
        let can_run = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
        Ok(if can_run { exit::SUCCESS } else { exit::FAILURE })
    }
}

fn print(output: &Output, findings: &[Finding]) -> Result<(), OutputError> {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    for finding in findings {
        let (mark, style) = match finding.verdict {
            Verdict::Good => ("[ok]", Style::Good),
            Verdict::Doubtful => ("[!] ", Style::Doubtful),
            Verdict::Bad => ("[x] ", Style::Bad),
        };
        output.line(&format!(
            "{} {:<width$}  {}",
            output.palette.paint(style, mark),
            finding.subject,
            finding.found
        ))?;
        if let Some(remedy) = &finding.remedy {
            output.line(&format!("     {:<width$}  remedy: {remedy}", ""))?;
        }
    }
    let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    output.line("")?;
    output.line(&match bad {
        0 => "Districts can run on this host.".to_owned(),
        1 => "Districts cannot run on this host: 1 thing is missing.".to_owned(),
        bad => format!("Districts cannot run on this host: {bad} things are missing."),
    })
}
