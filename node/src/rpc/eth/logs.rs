//! Searches for logs, bounded in blocks, results and time.

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use alloy_rpc_types_eth::{Filter, FilterSet, Log};
use serde::Deserialize;

use crate::rpc::{
    Answer,
    call::RpcCall,
    convert,
    error::RpcError,
    eth::blocks::need_receipts,
    params::{AddressParam, BlockParam, BoundedVec, HashParam, NumberOrTag, OneOrMany, Params},
};

/// Most addresses in a query (geth's bound).
const MAX_ADDRESSES: usize = 1_000;
/// Most positions of topics: a log has no more (EVM, `LOG4`).
const MAX_TOPICS: usize = 4;
/// Most alternatives at one position (geth's bound).
const MAX_ALTERNATIVES: usize = 1_000;
/// Left of a call's time when a search stops: enough to write what was found, so that a filter's client
/// learns of it.
const WRITE_TIME: Duration = Duration::from_secs(1);
/// Data of the logs in one answer, bytes.
const MAX_DATA_BYTES: usize = 8 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    #[serde(default)]
    from_block: Option<NumberOrTag>,
    #[serde(default)]
    to_block: Option<NumberOrTag>,
    #[serde(default)]
    block_hash: Option<HashParam>,
    #[serde(default)]
    address: Option<OneOrMany<AddressParam, MAX_ADDRESSES>>,
    #[serde(default)]
    topics: Option<BoundedVec<Option<Alternatives>, MAX_TOPICS>>,
}

/// One topic, or several of which any will do; `null` stands for every topic.
type Alternatives = OneOrMany<Option<HashParam>, MAX_ALTERNATIVES>;

/// Which blocks a query is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rpc) enum Blocks {
    /// The block with this hash.
    One(B256),
    /// From one to another, both inclusive.
    Range(BlockParam, BlockParam),
}

/// A query for logs.
#[derive(Clone, Debug)]
pub(in crate::rpc) struct Query {
    blocks: Blocks,
    filter: Filter,
}

impl Query {
    /// Reads the parameter of `eth_getLogs` and `eth_newFilter`.
    pub(in crate::rpc) fn read(params: &Params<'_>) -> Result<Self, RpcError> {
        params.at_most(1)?;
        let described: Description = params.object(0)?;
        let blocks = match (
            described.block_hash,
            described.from_block,
            described.to_block,
        ) {
            (Some(HashParam(hash)), None, None) => Blocks::One(hash),
            (Some(_), _, _) => {
                return Err(RpcError::InvalidParams(
                    "cannot specify both BlockHash and FromBlock/ToBlock, choose one or the other"
                        .into(),
                ));
            }
            (None, from, to) => {
                let or_latest =
                    |block: Option<NumberOrTag>| block.map_or_else(Default::default, |b| b.0);
                Blocks::Range(or_latest(from), or_latest(to))
            }
        };
        let address: FilterSet<Address> = described
            .address
            .map(OneOrMany::into_vec)
            .unwrap_or_default()
            .into_iter()
            .map(|address| address.0)
            .collect();
        let mut filter = Filter {
            address,
            ..Filter::default()
        };
        let positions = described.topics.map(|list| list.0).unwrap_or_default();
        for (place, position) in filter.topics.iter_mut().zip(positions) {
            let alternatives = position.map(OneOrMany::into_vec).unwrap_or_default();
            let all: Option<Vec<B256>> = alternatives
                .into_iter()
                .map(|topic| topic.map(|topic| topic.0))
                .collect();
            *place = all.unwrap_or_default().into();
        }
        Ok(Self { blocks, filter })
    }

    /// First block that an installed filter reports when `head` is known to its client.
    pub(in crate::rpc) fn first_to_report(&self, head: u64) -> u64 {
        match self.blocks {
            Blocks::One(_) => u64::MAX,
            Blocks::Range(BlockParam::Number(from), _) => from.max(head.saturating_add(1)),
            Blocks::Range(..) => head.saturating_add(1),
        }
    }

    /// Last block that an installed filter reports.
    pub(in crate::rpc) fn last_to_report(&self, head: u64) -> u64 {
        match self.blocks {
            Blocks::Range(_, BlockParam::Number(to)) => to.min(head),
            _ => head,
        }
    }

    /// `eth_getLogs`, `eth_getFilterLogs`.
    pub(in crate::rpc) fn answer(&self, rpc: &RpcCall) -> Answer {
        let head = rpc.head_height();
        let (from, to) = match self.blocks {
            Blocks::One(hash) => {
                let height = rpc
                    .height(BlockParam::Hash(hash))?
                    .ok_or_else(|| RpcError::Server("unknown block".into()))?;
                (height, height)
            }
            Blocks::Range(from, to) => {
                let number = |block| match block {
                    BlockParam::Number(number) => number,
                    _ => head,
                };
                let (from, to) = (number(from), number(to));
                if from > to && matches!(self.blocks, Blocks::Range(_, BlockParam::Number(_))) {
                    return Err(RpcError::InvalidParams("invalid block range params".into()));
                }
                (from, to.min(head))
            }
        };
        if from > to {
            return rpc.json::<[Log]>(&[]);
        }
        let most = rpc.limits().max_log_blocks;
        if to - from >= most {
            return Err(RpcError::Limit(format!(
                "exceed maximum block range: {most}"
            )));
        }
        let found = self.search(rpc, from, to)?;
        match found.stopped {
            None => rpc.json(&found.logs),
            Some(why) => Err(why),
        }
    }

    /// Looks through blocks `from` to `to`, both inclusive, until a bound is met; ends with an error when
    /// nobody waits for the answer any more.
    pub(in crate::rpc) fn search(
        &self,
        rpc: &RpcCall,
        from: u64,
        to: u64,
    ) -> Result<Found, RpcError> {
        let most = rpc.limits().max_logs;
        let mut found = Found {
            logs: Vec::new(),
            next: from,
            stopped: None,
        };
        let mut bytes = 0;
        for height in from..=to {
            rpc.call_deadline.check()?;
            if Instant::now() + WRITE_TIME >= rpc.call_deadline.instant() {
                found.stopped = Some(RpcError::Timeout(
                    "query timeout exceeded: ask for fewer blocks".into(),
                ));
                break;
            }
            if let Some(stored) = rpc.block_at(height)?
                && self.filter.matches_bloom(stored.block.header.logs_bloom)
            {
                need_receipts(&stored)?;
                let before = found.logs.len();
                for log in convert::logs(&stored, |log| self.filter.matches(log)) {
                    bytes += log.inner.data.data.len();
                    if found.logs.len() >= most || bytes > MAX_DATA_BYTES {
                        found.logs.truncate(before);
                        found.stopped = Some(RpcError::Limit(format!(
                            "query returned more than {most} results"
                        )));
                        return Ok(found);
                    }
                    found.logs.push(log);
                }
            }
            found.next = height + 1;
        }
        Ok(found)
    }
}

/// What a search gave.
pub(in crate::rpc) struct Found {
    /// Logs of whole blocks, in order.
    pub(in crate::rpc) logs: Vec<Log>,
    /// First block that was not searched to its end.
    pub(in crate::rpc) next: u64,
    /// Why it ended early.
    pub(in crate::rpc) stopped: Option<RpcError>,
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn read(text: &str) -> Result<Query, RpcError> {
        let raw = RawValue::from_string(format!("[{text}]")).unwrap();
        Query::read(&Params::parse(Some(&raw)).unwrap())
    }

    #[test]
    fn queries_are_read_in_every_form() {
        let address = Address::repeat_byte(1);
        let [a, b] = [B256::repeat_byte(0xaa), B256::repeat_byte(0xbb)];
        let query = read(&format!(
            "{{\"fromBlock\":\"0x1\",\"address\":\"{address}\",\"topics\":[\"{a}\",null,[\"{a}\",\"{b}\"],[]],\"limit\":5}}"
        ))
        .unwrap();
        assert_eq!(
            query.blocks,
            Blocks::Range(BlockParam::Number(1), BlockParam::Latest)
        );
        assert!(query.filter.address.contains(&address));
        let sizes: Vec<usize> = query.filter.topics.iter().map(FilterSet::len).collect();
        assert_eq!(sizes, [1, 0, 2, 0]);

        let wild = read(&format!("{{\"topics\":[[\"{a}\",null]]}}")).unwrap();
        assert!(wild.filter.topics[0].is_empty(), "null matches everything");
        let hash = read(&format!(
            "{{\"blockHash\":\"{a}\",\"address\":[\"{address}\"]}}"
        ))
        .unwrap();
        assert_eq!(hash.blocks, Blocks::One(a));
        assert!(read("{}").is_ok());
    }

    #[test]
    fn wrong_queries_are_refused() {
        let topic = B256::ZERO;
        let hash = B256::ZERO;
        let five = vec![format!("\"{topic}\""); 5].join(",");
        let many = vec![format!("\"{topic}\""); MAX_ALTERNATIVES + 1].join(",");
        let addresses = vec![format!("\"{}\"", Address::ZERO); MAX_ADDRESSES + 1].join(",");
        for text in [
            "[]".to_owned(),
            "\"latest\"".into(),
            format!("{{\"blockHash\":\"{hash}\",\"fromBlock\":\"0x1\"}}"),
            format!("{{\"topics\":[{five}]}}"),
            format!("{{\"topics\":[[{many}]]}}"),
            format!("{{\"address\":[{addresses}]}}"),
            "{\"address\":\"0x12\"}".into(),
            "{\"topics\":\"0x12\"}".into(),
            "{\"fromBlock\":5}".into(),
        ] {
            let error = read(&text).unwrap_err();
            assert_eq!(error.code(), -32602, "{error}");
        }
    }
}
