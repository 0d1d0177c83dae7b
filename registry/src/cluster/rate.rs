//! How many requests one caller may make.

use super::Now;

/// Requests per second of one key, on average.
pub const REQUESTS_PER_SECOND: f64 = 20.0;
/// Requests of one key at once.
pub const REQUEST_BURST: f64 = 100.0;
/// Requests per second of all keys that the registry does not know, together.
pub const UNKNOWN_PER_SECOND: f64 = 50.0;
/// Requests at once of all keys that the registry does not know, together.
pub const UNKNOWN_BURST: f64 = 200.0;

/// A token bucket: it holds `burst` requests and regains `per_second`.
#[derive(Clone, Debug)]
pub struct Bucket {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Now,
}

impl Bucket {
    /// A full bucket.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self {
            per_second,
            burst,
            left: burst,
            at: Now::ZERO,
        }
    }

    /// The bucket of a known key.
    pub fn of_key() -> Self {
        Self::new(REQUESTS_PER_SECOND, REQUEST_BURST)
    }

    /// Takes one request out, unless the bucket is empty.
    pub fn take(&mut self, now: Now) -> bool {
        let regained = now.saturating_sub(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + regained).min(self.burst);
        self.at = self.at.max(now);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_spent_and_regained() {
        let mut bucket = Bucket::new(2.0, 3.0);
        let at = Now::from_secs(9);
        let taken = (0..10).filter(|_| bucket.take(at)).count();
        assert_eq!(taken, 3);
        assert!(!bucket.take(at + Now::from_millis(400)));
        assert!(bucket.take(at + Now::from_millis(600)));
        assert!(
            !bucket.take(Now::ZERO),
            "time that runs backwards gives nothing"
        );
    }
}
