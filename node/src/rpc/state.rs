//! From block parameters to blocks, headers and state.

use std::sync::Arc;

use alloy_consensus::Header;
use alloy_primitives::{Address, B256};
use axolotl_common::Height;
use axolotl_ledger::{Account, FlatState, state::account_key};

use super::{Rpc, error::RpcError, params::BlockParam};
use crate::storage::StoredBlock;

/// The state after one block.
pub(super) struct View {
    /// The block's header.
    pub(super) header: Header,
    /// State after it.
    pub(super) state: Arc<dyn FlatState>,
}

impl View {
    /// An account; `None` when it does not exist.
    pub(super) fn account(&self, address: &Address) -> Result<Option<Account>, RpcError> {
        self.state
            .account(&account_key(address))
            .map_err(RpcError::internal)
    }
}

impl Rpc {
    /// Height of the head: nothing above it is visible.
    pub(super) fn head_height(&self) -> u64 {
        self.chain().head().header.number
    }

    /// Height of a block; `None` when there is no such block, or none yet.
    pub(super) fn height(&self, block: BlockParam) -> Result<Option<u64>, RpcError> {
        let head = self.head_height();
        let height = match block {
            BlockParam::Latest | BlockParam::Pending => Some(head),
            BlockParam::Number(number) => Some(number),
            BlockParam::Hash(hash) => self
                .chain()
                .height_of(&hash)
                .map_err(RpcError::internal)?
                .map(|height| height.0),
        };
        Ok(height.filter(|height| *height <= head))
    }

    /// A visible block by height.
    pub(super) fn block_at(&self, height: u64) -> Result<Option<Arc<StoredBlock>>, RpcError> {
        if height > self.head_height() {
            return Ok(None);
        }
        self.chain()
            .block(Height(height))
            .map_err(RpcError::internal)
    }

    /// A visible block.
    pub(super) fn block(&self, block: BlockParam) -> Result<Option<Arc<StoredBlock>>, RpcError> {
        match self.height(block)? {
            Some(height) => self.block_at(height),
            None => Ok(None),
        }
    }

    /// Block and place of a transaction that is final.
    pub(super) fn final_transaction(&self, hash: &B256) -> Result<Option<(u64, usize)>, RpcError> {
        let found = self.chain().transaction(hash).map_err(RpcError::internal)?;
        let head = self.head_height();
        Ok(found
            .map(|(height, index)| (height.0, index))
            .filter(|(height, _)| *height <= head))
    }

    /// Header and state of a block that must exist and be recent.
    pub(super) fn view(&self, block: BlockParam) -> Result<View, RpcError> {
        let head = self.chain().head();
        let height = self.height(block)?.ok_or_else(|| unknown_block(block))?;
        // The head's header is at hand: most calls are about it, and need no block read.
        let header = if height == head.header.number {
            head.header.clone()
        } else {
            let stored = self.block_at(height)?;
            stored
                .ok_or_else(|| unknown_block(block))?
                .block
                .header
                .clone()
        };
        let state = self
            .chain()
            .state(Height(height))
            .map_err(|why| RpcError::Server(format!("historical state not available: {why}")))?;
        Ok(View { header, state })
    }
}

/// geth's words for a block that is not there.
pub(super) fn unknown_block(block: BlockParam) -> RpcError {
    RpcError::Server(match block {
        BlockParam::Hash(_) => "header for hash not found".into(),
        _ => "header not found".into(),
    })
}
