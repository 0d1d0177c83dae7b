//! Keys and sets for unit tests.

use axolotl_common::{
    ChainId, ChainRef, Epoch, EpochRecord, Hash, Height, KeyPair, Member, NodeId, QuorumRule,
    ValidatorSet, VolumeId, membership::RecordKind,
};

pub(crate) fn key(number: u8) -> KeyPair {
    KeyPair::from_seed(&[number; 32])
}

pub(crate) fn chain() -> ChainRef {
    ChainRef {
        id: ChainId(7),
        genesis: Hash([9; 32]),
    }
}

pub(crate) fn set(epoch: u64, members: &[u8]) -> ValidatorSet {
    let record = EpochRecord {
        number: Epoch(epoch),
        kind: RecordKind::Planned,
        succeeds: Hash([0; 32]),
        members: members
            .iter()
            .map(|number| Member {
                node_id: NodeId::numbered(u64::from(*number)),
                public_key: key(*number).public(),
                volume_id: VolumeId([*number; 16]),
            })
            .collect(),
        base_height: Height(0),
        expiry_height: None,
        handover: None,
    };
    ValidatorSet::new(&chain(), &record, QuorumRule::Byzantine)
}
