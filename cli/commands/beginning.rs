//! With which memory a district begins, as `start` and `restart` are told.

use clap::Args;

use crate::api::snapshot::Beginning;

/// Both left out: that of its newest checkpoint.
#[derive(Debug, Args)]
pub struct BeginningArguments {
    /// With the memory of this snapshot, or of the checkpoint with this number
    #[arg(long, value_name = "TAG|GENERATION", conflicts_with = "cold")]
    from: Option<Beginning>,
    /// With fresh memory and the program from its image, whatever checkpoints there are
    #[arg(long)]
    cold: bool,
}

impl BeginningArguments {
    /// Whether nothing was said.
    pub fn is_usual(&self) -> bool {
        self.from.is_none() && !self.cold
    }

    /// What was said.
    pub fn beginning(self) -> Beginning {
        match self.from {
            Some(from) => from,
            None if self.cold => Beginning::Cold,
            None => Beginning::Newest,
        }
    }
}
