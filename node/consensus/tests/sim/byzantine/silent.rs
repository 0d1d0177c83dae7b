use axolotl_consensus::Message;

use super::{Actor, Cast, Outgoing};

/// Says nothing.
#[derive(Debug)]
pub(crate) struct Silent;

impl Actor for Silent {
    fn says(&mut self, _: &mut Cast<'_>, _: Message) -> Outgoing {
        Vec::new()
    }
}
