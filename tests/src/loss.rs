//! A lost quorum: how it comes about, what is waited for, and what must hold afterwards.

use std::time::{Duration, Instant};

use anyhow::ensure;
use axolotl_common::registry_api::{EventKind, MembershipResponse, StatusResponse};

use crate::{
    Cluster, Load, checks, limit, membership,
    processes::{self, Signal},
    wait,
};

/// From the loss of the quorum until blocks are made again.
pub const RECOVERED: Duration = Duration::from_secs(60);
/// Patience for anything.
pub const AGAIN: Duration = Duration::from_secs(60);

/// When a recovery came to which phase, counted from the loss.
#[derive(Clone, Debug)]
pub struct Timeline {
    begun: Instant,
    steps: Vec<(String, Duration)>,
}

impl Timeline {
    /// The quorum is lost now.
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
            steps: Vec::new(),
        }
    }

    /// Time since the loss.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Something is so from now on; told twice in a row, it counts once.
    pub fn note(&mut self, what: &str) {
        if self.steps.last().is_none_or(|(last, _)| last != what) {
            self.steps.push((what.to_owned(), self.begun.elapsed()));
        }
    }

    /// All steps with their times.
    pub fn text(&self) -> String {
        let steps = self.steps.iter();
        let steps = steps.map(|(what, at)| format!("{what} {:.1} s", at.as_secs_f64()));
        steps.collect::<Vec<_>>().join(", ")
    }
}

/// What the registry says about the loss, for a failure's text.
pub fn words(status: &StatusResponse) -> String {
    match &status.recovery {
        Some(recovery) => format!("{:?}: {}", recovery.phase, recovery.summary),
        None => format!("no recovery; about {:?}", status.plan),
    }
}

/// Ends these validators at once and takes their volumes away.
///
/// # Errors
/// When one of them stays.
pub async fn take_away(cluster: &mut Cluster, gone: &[String]) -> anyhow::Result<Timeline> {
    cluster.refresh().await?;
    let pids = gone.iter().map(|label| cluster.pid(label));
    let pids: Vec<u32> = pids.collect::<Result<_, _>>()?;
    let begun = Timeline::begin();
    for pid in &pids {
        processes::signal(*pid, Signal::TERM)?;
    }
    for (label, pid) in gone.iter().zip(&pids) {
        processes::wait_gone(*pid).await?;
        cluster.wipe(label)?;
    }
    Ok(begun)
}

/// Waits until none of `gone` is a validator, all `n` vote, and nothing is left to do; notes the phases
/// until then.
///
/// # Errors
/// After the deadline.
pub async fn recovered(
    cluster: &Cluster,
    gone: &[String],
    n: usize,
    timeline: &mut Timeline,
) -> anyhow::Result<()> {
    let seen = std::cell::RefCell::new(timeline);
    wait::until("the new validators to vote", limit(RECOVERED), async || {
        let membership: MembershipResponse = cluster.get("/membership").await?;
        let status: StatusResponse = cluster.get("/status").await?;
        if let Some(recovery) = &status.recovery {
            seen.borrow_mut().note(recovery.phase.as_str());
        }
        let now = membership::validators(membership)?;
        let voting = status.nodes.values().filter(|node| node.voting).count();
        ensure!(
            now.len() == n && voting == n && !gone.iter().any(|label| now.contains(label)),
            "{now:?}, {voting} vote; {}",
            words(&status)
        );
        Ok(())
    })
    .await?;
    seen.into_inner().note("all vote");
    Ok(())
}

/// From now on `traffic` goes through the validators; waits until it is acknowledged.
///
/// # Errors
/// After the deadline.
pub async fn blocks_again(cluster: &mut Cluster, traffic: &Load) -> anyhow::Result<()> {
    traffic.follow(cluster.voters().await?);
    traffic.wait_for_more(10, AGAIN).await
}

/// Ends `traffic`: everything that was acknowledged is at every validator, and they hold one chain.
///
/// # Errors
/// With what is lost or forked.
pub async fn nothing_lost(cluster: &mut Cluster, traffic: Load) -> anyhow::Result<()> {
    let acknowledged = traffic.stop().await?;
    let clients = cluster.voters().await?;
    checks::all_present(&clients, &acknowledged).await?;
    let height = checks::same_chain(&clients).await?;
    println!(
        "{} acknowledged transfers are in one chain of {height} blocks",
        acknowledged.len()
    );
    Ok(())
}

/// Ends a test that went well, after a look at all consensus logs that are left.
///
/// # Errors
/// When something stays, or a validator signed two things in one place.
pub async fn finish(mut cluster: Cluster) -> anyhow::Result<()> {
    cluster.stop().await?;
    checks::never_signed_twice(cluster.home())?;
    cluster.finish().await
}

/// What the registry told of recoveries, step by step.
///
/// # Errors
/// When it does not answer, or told nothing.
pub async fn told(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let events = cluster.events().await?.into_iter();
    let recovery = events.filter(|event| event.kind == EventKind::Recovery);
    let told: Vec<String> = recovery
        .map(|event| format!("{} {}", event.time, event.message))
        .collect();
    ensure!(!told.is_empty(), "no event tells of the recovery");
    Ok(told)
}

/// No record beyond `records` was signed, and none of these nodes is sealed.
///
/// # Errors
/// When one was, or a node does not answer.
pub async fn nothing_done(
    cluster: &Cluster,
    records: usize,
    survivors: &[String],
) -> anyhow::Result<()> {
    let now: MembershipResponse = cluster.get("/membership").await?;
    ensure!(
        now.records.len() == records && now.pending.is_none(),
        "a record was signed: {now:?}"
    );
    for label in survivors {
        let own = cluster.own_status(label).await?;
        ensure!(own.sealed.is_none(), "{label} is sealed: {own:?}");
    }
    Ok(())
}
