//! What a command line aims all faults at, whatever the stages select by themselves.

use crate::config::expression;
use crate::pipeline::params::{Opened, Select, StageParams};

/// Packets at which all stages of a run are aimed. By default all packets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Aim {
    /// Only packets like these, by an expression.
    pub select: Option<Select>,
    /// Only connections that were opened before or after the start, unless a stage says it for itself.
    pub opened: Option<Opened>,
}

impl Aim {
    /// Makes `stages` act on nothing else.
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
