//! What a node has promised to registries, durable before anything is answered.

use axolotl_common::recovery::{Ballot, Promises, RegistryStart};

use crate::storage::DataDir;

/// Name of the small record in the data directory.
const RECORD: &str = "promises";

/// Why a promise was not made.
#[derive(Debug, thiserror::Error)]
pub(in crate::engine) enum PromiseError {
    /// The order is not to be obeyed.
    #[error("{0}")]
    Refused(String),
    /// It could not be made durable: fatal.
    #[error("the promises of this node cannot be kept: {0}")]
    Store(String),
}

/// The promises of a data directory.
#[derive(Debug)]
pub(in crate::engine) struct Kept {
    promises: Promises,
}

impl Kept {
    /// Reads them.
    ///
    /// # Errors
    /// When they cannot be read: what was promised is not known then.
    pub(in crate::engine) fn open(data: &DataDir) -> Result<Self, PromiseError> {
        let store = |why: String| PromiseError::Store(why);
        let bytes = data.record(RECORD).map_err(|e| store(e.to_string()))?;
        let promises = match bytes {
            Some(bytes) => borsh::from_slice(&bytes).map_err(|e| store(e.to_string()))?,
            None => Promises::default(),
        };
        Ok(Self { promises })
    }

    /// What is promised.
    pub(in crate::engine) fn get(&self) -> &Promises {
        &self.promises
    }

    /// See [`Promises::meet`]; durable when this returns.
    ///
    /// # Errors
    /// See [`PromiseError`].
    pub(in crate::engine) fn meet(
        &mut self,
        data: &DataDir,
        starts: &[RegistryStart],
        take_over: bool,
    ) -> Result<(), PromiseError> {
        self.replace(data, self.promises.meet(starts, take_over))
    }

    /// Promises to obey nothing below this ballot; durable when this returns.
    ///
    /// # Errors
    /// See [`PromiseError`].
    pub(in crate::engine) fn promise(
        &mut self,
        data: &DataDir,
        ballot: &Ballot,
    ) -> Result<(), PromiseError> {
        self.replace(data, self.promises.promise(ballot))
    }

    fn replace(
        &mut self,
        data: &DataDir,
        new: Result<Promises, String>,
    ) -> Result<(), PromiseError> {
        let new = new.map_err(PromiseError::Refused)?;
        if new != self.promises {
            let bytes = borsh::to_vec(&new).expect("writing to a Vec does not fail");
            data.write_record(RECORD, &bytes)
                .map_err(|error| PromiseError::Store(error.to_string()))?;
            self.promises = new;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axolotl_common::recovery::StartId;

    use super::*;

    fn start(counter: u64, id: u8) -> RegistryStart {
        RegistryStart {
            counter,
            id: StartId([id; 16]),
        }
    }

    fn ballot(start: RegistryStart, attempt: u64) -> Ballot {
        Ballot { start, attempt }
    }

    #[test]
    fn promises_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (start(1, 1), start(2, 2));
        {
            let data = DataDir::open(dir.path()).unwrap();
            let mut kept = Kept::open(&data).unwrap();
            assert_eq!(*kept.get(), Promises::default());
            kept.meet(&data, &[a], false).unwrap();
        }
        {
            let data = DataDir::open(dir.path()).unwrap();
            let mut kept = Kept::open(&data).unwrap();
            assert_eq!(kept.get().met, Some(a));
            kept.promise(&data, &ballot(a, 4)).unwrap();
            let refused = kept.promise(&data, &ballot(a, 3));
            assert!(matches!(refused, Err(PromiseError::Refused(_))));
        }
        let data = DataDir::open(dir.path()).unwrap();
        let mut kept = Kept::open(&data).unwrap();
        assert_eq!(kept.get().promised, Some(ballot(a, 4)));
        let refused = kept.meet(&data, &[b], false);
        assert!(matches!(refused, Err(PromiseError::Refused(_))));
        // What cannot be read is not taken for nothing.
        data.write_record(RECORD, &[1, 2, 3]).unwrap();
        assert!(matches!(Kept::open(&data), Err(PromiseError::Store(_))));
    }
}
