//! The packets at which a command line aims all faults, in addition to what the stages select themselves.

use crate::config::expression;
use crate::pipeline::params::{Opened, Select, StageParams};

/// Packets at which all stages of a run are aimed. By default all packets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Aim {
    /// Only packets that this expression matches.
    pub select: Option<Select>,
    /// Only connections that were opened before or after the start, unless a stage has this condition itself.
    pub opened: Option<Opened>,
}

impl Aim {
    /// Restricts `stages` to these packets.
    ///
    /// # Errors
    /// The name of a stage whose own conditions contradict this, so that it would hit no packet.
    pub fn narrow<'a>(&self, stages: impl IntoIterator<Item = &'a mut StageParams>) -> Result<(), String> {
        for stage in stages {
            if let Some(select) = &self.select
                && !expression::narrow(&mut stage.select, select)
            {
                return Err(stage.name.clone());
            }
            stage.select.opened = stage.select.opened.or(self.opened);
        }
        Ok(())
    }
}
