//! Reads server-sent events (WHATWG HTML, section 9.2), as far as the registry writes them.

use axolotl_common::registry_api::MAX_PEERS_ORDER_BYTES;

/// Largest event, bytes: an order with every peer of a large network.
pub(super) const MAX_EVENT_BYTES: usize = 4 << 20;
const _: () = assert!(MAX_PEERS_ORDER_BYTES < MAX_EVENT_BYTES);

/// The stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {MAX_EVENT_BYTES} bytes")]
pub(super) struct TooLarge;

/// Cuts a stream of bytes into events.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    data: Vec<u8>,
    kind: String,
    after_cr: bool,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SseEvent {
    pub(super) kind: String,
    pub(super) data: Vec<u8>,
}

impl Parser {
    /// Takes the next bytes; returns the events that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<SseEvent>, TooLarge> {
        let mut events = Vec::new();
        for byte in bytes {
            let lf_of_crlf = *byte == b'\n' && self.after_cr;
            self.after_cr = *byte == b'\r';
            match byte {
                _ if lf_of_crlf => {}
                b'\n' | b'\r' => events.extend(self.end_line()?),
                byte => {
                    if self.line.len() >= MAX_EVENT_BYTES {
                        return Err(TooLarge);
                    }
                    self.line.push(*byte);
                }
            }
        }
        Ok(events)
    }

    fn end_line(&mut self) -> Result<Option<SseEvent>, TooLarge> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            let mut data = std::mem::take(&mut self.data);
            if data.is_empty() {
                return Ok(None);
            }
            data.pop();
            return Ok(Some(SseEvent { kind, data }));
        }
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (field, rest) = line.split_at(colon);
        let value = rest.strip_prefix(b":").unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.data.len() + value.len() >= MAX_EVENT_BYTES {
                    return Err(TooLarge);
                }
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => self.kind = String::from_utf8_lossy(value).into_owned(),
            // Comments, ids (the order's number is signed inside it) and fields of later versions.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b": hello\n\nid: 7\nevent: order\ndata: {\"a\":\ndata:1}\n\r\n\nevent:x\rdata\r\rdata: y";

    fn event(kind: &str, data: &str) -> SseEvent {
        SseEvent {
            kind: kind.into(),
            data: data.into(),
        }
    }

    #[test]
    fn events_do_not_depend_on_how_bytes_arrive() {
        let expected = [event("order", "{\"a\":\n1}"), event("x", "")];
        for size in 1..STREAM.len() {
            let mut parser = Parser::default();
            let events: Vec<SseEvent> = STREAM
                .chunks(size)
                .flat_map(|chunk| parser.feed(chunk).unwrap())
                .collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn endless_events_are_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let fed = (0..8).try_for_each(|_| parser.feed(&piece).map(|_| ()));
        assert_eq!(fed, Err(TooLarge));
        let mut parser = Parser::default();
        let line = [b"data:".as_slice(), &piece, b"\n"].concat();
        let fed = (0..8).try_for_each(|_| parser.feed(&line).map(|_| ()));
        assert_eq!(fed, Err(TooLarge));
    }
}
