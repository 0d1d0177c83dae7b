//! Checkpoints: the state over the last one goes into the store, off the thread that publishes.

use std::{
    sync::{Arc, PoisonError},
    thread::{self, JoinHandle},
    time::Instant,
};

use super::{Inner, StorageError, lock};
use crate::storage::{
    schema::Checkpoint,
    state_store::{Pending, StoreError},
};

/// The thread that writes a checkpoint, if one runs.
#[derive(Debug)]
pub(super) struct Checkpointer {
    running: Option<JoinHandle<Result<(), StorageError>>>,
    last: Instant,
    height: u64,
}

impl Checkpointer {
    pub(super) fn new(height: u64) -> Self {
        Self {
            running: None,
            last: Instant::now(),
            height,
        }
    }

    /// Height of the checkpoint that was begun last.
    pub(super) fn height(&self) -> u64 {
        self.height
    }

    fn finished(&self) -> bool {
        self.running.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the thread and takes its result.
    fn join(&mut self) -> Result<(), StorageError> {
        match self.running.take() {
            None => Ok(()),
            Some(thread) => thread.join().unwrap_or_else(|_| {
                Err(StorageError::Fatal(
                    "the thread that writes checkpoints panicked".into(),
                ))
            }),
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "the last checkpoint failed; the next start replays more blocks");
        }
    }
}

impl Inner {
    /// Begins a checkpoint when one is due and everything applied is published.
    pub(super) fn checkpoint_if_due(&self) -> Result<(), StorageError> {
        let mut checkpointer = lock(&self.checkpointer);
        let size = self.layers.size();
        let due = size.blocks > 0
            && (size.blocks >= self.options.checkpoint_blocks
                || size.bytes >= self.options.overlay_bytes
                || checkpointer.last.elapsed() >= self.options.checkpoint_interval);
        let ended = checkpointer.running.is_some() && checkpointer.finished();
        if !due && !ended {
            return Ok(());
        }
        if !checkpointer.finished() && size.bytes < 2 * self.options.overlay_bytes {
            return Ok(());
        }
        checkpointer.join()?;
        if !due {
            return Ok(());
        }
        let Some((frozen, checkpoint)) = self.freeze()? else {
            return Ok(());
        };
        checkpointer.last = Instant::now();
        checkpointer.height = checkpoint.height();
        let (layers, blocks) = (Arc::clone(&self.layers), Arc::clone(&self.blocks));
        let thread = thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                blocks.sync_index()?;
                write(&layers, &frozen, &checkpoint)?;
                Ok(())
            })
            .map_err(|e| StorageError::Fatal(format!("cannot start a thread: {e}")))?;
        checkpointer.running = Some(thread);
        Ok(())
    }

    /// Writes a checkpoint of the head here and now.
    pub(super) fn checkpoint_now(&self) -> Result<(), StorageError> {
        let mut checkpointer = lock(&self.checkpointer);
        checkpointer.join()?;
        if let Some((frozen, checkpoint)) = self.freeze()? {
            self.blocks.sync_index()?;
            write(&self.layers, &frozen, &checkpoint)?;
            checkpointer.height = checkpoint.height();
        }
        checkpointer.last = Instant::now();
        Ok(())
    }

    pub(super) fn close(&self) -> Result<(), StorageError> {
        self.publish()?;
        self.checkpoint_now()
    }

    /// What a checkpoint of the tip holds. Nothing while blocks are applied that are not published:
    /// a checkpoint must not run ahead of the log.
    fn freeze(&self) -> Result<Option<(Arc<Pending>, Checkpoint)>, StorageError> {
        let _tip_stays = self.roots.read().unwrap_or_else(PoisonError::into_inner);
        let tip = self.tip();
        if tip.head.place() != self.head.borrow().place() {
            return Ok(None);
        }
        let Some(frozen) = self.layers.freeze() else {
            return Ok(None);
        };
        // While blocks above the tip lie in the log, the next open must find them again.
        let (logged, scanned_from) = self.logged;
        let log_position = if tip.head.height() >= logged {
            self.blocks.end()
        } else {
            scanned_from
        };
        let checkpoint = Checkpoint {
            genesis: self.genesis.hash,
            hash: tip.head.hash,
            header: tip.head.header.clone(),
            log_position,
            sets: (*tip.sets).clone(),
            begins: tip.head.previous_validators.is_some(),
            due: tip.head.due.as_deref().cloned(),
        };
        Ok(Some((frozen, checkpoint)))
    }
}

fn write(
    layers: &super::Layers,
    frozen: &Pending,
    checkpoint: &Checkpoint,
) -> Result<(), StoreError> {
    layers.store.commit(frozen, checkpoint)?;
    let (_, base) = layers.store.base()?;
    layers.thaw(base);
    Ok(())
}
