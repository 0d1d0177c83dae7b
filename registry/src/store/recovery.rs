//! Starts of the registry, and what must be durable of recoveries.

use axolotl_common::{
    SignedRecord,
    recovery::{Ballot, RegistryStart, SignedStatement, StartId},
};
use serde::{Deserialize, Serialize};
use sled::{
    Transactional,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};

use super::{Store, StoreError, StoredEpoch, decode, encode};
use crate::cluster::recovery::{Ledger, Memory};

/// Name of the ledger in `meta`.
const LEDGER: &str = "recovery";

/// One start of a registry on this store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Grows by one with each start.
    pub counter: u64,
    /// Random.
    pub id: StartId,
    /// Wall clock, milliseconds since 1970, above that of every start before; 0 for a start of another
    /// registry that this one took over from.
    pub at_ms: u64,
}

impl StartRecord {
    /// As nodes meet it.
    pub fn start(&self) -> RegistryStart {
        RegistryStart {
            counter: self.counter,
            id: self.id,
        }
    }

    fn key(start: RegistryStart) -> Vec<u8> {
        [&start.counter.to_be_bytes()[..], &start.id.0[..]].concat()
    }
}

type Abort = ConflictableTransactionError<StoreError>;

impl Store {
    fn transacted<T>(
        &self,
        result: Result<T, TransactionError<StoreError>>,
    ) -> Result<T, StoreError> {
        result.map_err(|error| match error {
            TransactionError::Abort(error) => error,
            TransactionError::Storage(source) => self.db_error(source),
        })
    }

    /// Writes down a start of the registry: its counter is one above the highest, and its time is above all
    /// before, even when the clock was set back.
    ///
    /// # Errors
    /// When the store fails.
    pub fn begin_start(&mut self, id: StartId, at_ms: u64) -> Result<StartRecord, StoreError> {
        let before = self.starts()?;
        let counter = before.last().map_or(0, |start| start.counter) + 1;
        let newest = before.iter().map(|start| start.at_ms).max();
        let at_ms = at_ms.max(newest.unwrap_or_default() + 1);
        let start = StartRecord { counter, id, at_ms };
        self.begin_write()?;
        self.starts
            .insert(StartRecord::key(start.start()), encode(&start))
            .map_err(|e| self.db_error(e))?;
        self.sync()?;
        Ok(start)
    }

    /// All starts, oldest first; those that were taken over from come by their counter.
    ///
    /// # Errors
    /// When the store fails.
    pub fn starts(&self) -> Result<Vec<StartRecord>, StoreError> {
        self.all("starts", &self.starts)
    }

    /// What the store holds of recoveries.
    ///
    /// # Errors
    /// When the store fails.
    pub fn recovery(&self) -> Result<Memory, StoreError> {
        let starts = self.starts()?;
        let statements: Vec<SignedStatement> = self.all("statements", &self.statements)?;
        let by_author = statements.into_iter().map(|s| (s.statement.author, s));
        Ok(Memory {
            starts: starts.iter().map(StartRecord::start).collect(),
            ledger: self.get_meta(LEDGER)?.unwrap_or_default(),
            statements: by_author.collect(),
        })
    }

    /// Writes down intent and ballots.
    ///
    /// # Errors
    /// When the store fails.
    pub fn put_ledger(&mut self, ledger: &Ledger) -> Result<(), StoreError> {
        self.put_meta(LEDGER, ledger)
    }

    /// Writes down a statement; it takes the place of its author's last one.
    ///
    /// # Errors
    /// When the store fails.
    pub fn put_statement(&mut self, signed: &SignedStatement) -> Result<(), StoreError> {
        self.begin_write()?;
        self.statements
            .insert(signed.statement.author.0, encode(signed))
            .map_err(|e| self.db_error(e))?;
        self.sync()
    }

    /// Writes down starts, the last of them this process's, together with the ledger.
    ///
    /// # Errors
    /// When the store fails.
    pub fn put_starts(
        &mut self,
        starts: &[RegistryStart],
        ledger: &Ledger,
        at_ms: u64,
    ) -> Result<(), StoreError> {
        self.begin_write()?;
        let own = starts.last().copied();
        let result = (&self.meta, &self.starts).transaction(|(meta, tree)| {
            for start in starts {
                let record = StartRecord {
                    counter: start.counter,
                    id: start.id,
                    at_ms: if Some(*start) == own { at_ms } else { 0 },
                };
                tree.insert(StartRecord::key(*start), encode(&record))?;
            }
            meta.insert(LEDGER, encode(ledger))?;
            Ok::<(), Abort>(())
        });
        self.transacted(result)?;
        self.sync()
    }

    /// Writes a signed record down, once for its number, and in the same transaction where the chain
    /// stands among its records. It may leave the process only afterwards.
    ///
    /// # Errors
    /// When the store fails, or holds a record of this number.
    pub fn put_record(
        &mut self,
        signed: &SignedRecord,
        epoch: &StoredEpoch,
    ) -> Result<(), StoreError> {
        self.begin_write()?;
        let result = (&self.meta, &self.records)
            .transaction(|(meta, records)| write_once(meta, records, signed, epoch));
        self.transacted(result)?;
        self.sync()
    }

    /// Writes a recovery or forced record down, once for its number, and closes the recovery; it may leave
    /// the process only afterwards. All in one transaction: nothing is written unless `ballot`, under which
    /// it was acknowledged, is the newest of the store.
    ///
    /// # Errors
    /// When another process opened a ballot, the number is used, or the store fails.
    pub fn put_recovery_record(
        &mut self,
        ballot: &Ballot,
        signed: &SignedRecord,
        epoch: &StoredEpoch,
    ) -> Result<(), StoreError> {
        self.begin_write()?;
        let result = (&self.meta, &self.records).transaction(|(meta, records)| {
            let abort = ConflictableTransactionError::Abort;
            let stored = meta.get(LEDGER)?;
            let ledger = stored.map(|bytes| decode::<Ledger>("meta", &bytes));
            let ledger = ledger.transpose().map_err(abort)?.unwrap_or_default();
            if ledger.newest() != Some(*ballot) {
                return Err(abort(StoreError::OldBallot(*ballot)));
            }
            write_once(meta, records, signed, epoch)?;
            meta.insert(LEDGER, encode(&ledger.closed()))?;
            Ok(())
        });
        self.transacted(result)?;
        self.sync()
    }
}

/// A record under its number, unless there is one, and where the chain stands among its records.
fn write_once(
    meta: &TransactionalTree,
    records: &TransactionalTree,
    signed: &SignedRecord,
    epoch: &StoredEpoch,
) -> Result<(), Abort> {
    let number = signed.record.number.0.to_be_bytes();
    if records.get(number)?.is_some() {
        return Err(Abort::Abort(StoreError::WrittenOnce("records")));
    }
    records.insert(&number[..], encode(signed))?;
    meta.insert("epoch", encode(epoch))?;
    Ok(())
}
