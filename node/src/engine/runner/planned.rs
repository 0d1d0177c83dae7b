//! What the runner does with planned records: keeps one, tells it to the peers, forgets it.

use std::{sync::Arc, time::Duration};

use axolotl_common::{PublicKey, SignedRecord, crypto::random_bytes};

use axolotl_ledger::block::decode_record;

use super::Runner;
use crate::{
    engine::{
        EngineError, follows_a_seal,
        records::{RecordError, Standing, Taken, decode_message, encode_message},
        since,
    },
    network::{MessageToken, limits::MAX_RECORD_BYTES},
};

/// A record that waits for a block is told again this often: some peer may have missed it.
pub(super) const RECORD_INTERVAL: Duration = Duration::from_secs(2);
/// … and this soon after a peer connected: its subscription takes a moment.
const RECORD_GREETING: Duration = Duration::from_millis(300);

impl Runner {
    /// Forgets the record that waits, when no block above the new head may carry it.
    pub(super) fn review_record(&mut self) {
        let standing = self.standing();
        if let Some(why) = self.record.on_head(self.chain.spec(), &standing) {
            tracing::info!(reason = why, "the record waits for a block no more");
            self.status.send_modify(|status| status.pending = None);
        }
    }

    /// Somebody connected: the record that waits, or the one in force, is told soon.
    pub(super) fn greet_with_record(&mut self) {
        let soon = since(self.start) + RECORD_GREETING;
        self.record_due = self.record_due.min(soon);
        self.recovery_due = self.recovery_due.min(soon);
    }

    fn standing(&self) -> Standing {
        let head = self.chain.head();
        Standing {
            validators: Arc::clone(&head.validators),
            height: head.height().next(),
        }
    }

    pub(super) async fn on_record_order(
        &mut self,
        record: &SignedRecord,
    ) -> Result<Result<String, String>, EngineError> {
        let standing = self.standing();
        let number = record.record.number;
        let answer = match self.record.offer(self.chain.spec(), &standing, record) {
            Ok(Taken::New) => {
                self.on_new_record().await?;
                Ok(format!("epoch {number} waits for a block"))
            }
            Ok(Taken::Known) => {
                self.tell_record();
                Ok(format!("epoch {number} waits for a block already"))
            }
            Ok(Taken::InForce) => Ok(format!("epoch {number} is in force")),
            Err(error) => {
                tracing::warn!(%number, %error, "a record of the registry is not kept");
                Err(error.to_string())
            }
        };
        Ok(answer)
    }

    pub(super) async fn on_record_gossip(
        &mut self,
        from: PublicKey,
        bytes: &[u8],
        token: MessageToken,
    ) -> Result<(), EngineError> {
        let request = decode_message(bytes).filter(|request| request.len() <= MAX_RECORD_BYTES);
        let Some(request) = request else {
            tracing::debug!(%from, "a gossiped record does not decode");
            self.network.reject(token);
            return Ok(());
        };
        if let Some(signed) = decode_record(&request).filter(follows_a_seal) {
            self.on_gossiped_recovery(from, signed, token);
            return Ok(());
        }
        let standing = self.standing();
        match self.record.take(self.chain.spec(), &standing, request) {
            Ok(Taken::New) => {
                self.network.accept(token);
                self.on_new_record().await?;
            }
            // Whoever needs it hears it from whoever it is new to, and from this node's own copies.
            Ok(Taken::Known | Taken::InForce) => self.network.ignore(token),
            Err(RecordError::Void(reason)) => {
                tracing::debug!(%from, reason, "a gossiped record is of no use here");
                self.network.ignore(token);
            }
            Err(RecordError::False(reason)) => {
                tracing::warn!(%from, reason, "a gossiped record is false");
                self.network.reject(token);
            }
        }
        Ok(())
    }

    async fn on_new_record(&mut self) -> Result<(), EngineError> {
        let pending = self.record.epoch();
        tracing::info!(epoch = ?pending, "a planned record waits for a block");
        self.status.send_modify(|status| status.pending = pending);
        self.tell_record();
        self.check_work().await
    }

    /// Tells the peers the record that waits. Each copy differs, so that gossip passes it on.
    pub(super) fn tell_record(&mut self) {
        self.record_due = since(self.start) + RECORD_INTERVAL;
        if let Some(request) = self.record.request() {
            let copy = u64::from_le_bytes(random_bytes());
            if let Err(error) = self.network.publish_record(encode_message(copy, request)) {
                tracing::warn!(%error, "a record was not sent; it is sent again");
            }
        }
    }
}
