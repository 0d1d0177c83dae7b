//! The chain of a cluster of containers: who votes, transfers under way, and that none is lost.

use std::time::Duration;

use anyhow::{Context, ensure};
use axolotl_common::registry_api::{
    Event, EventKind, MembershipResponse, NodeSelfStatus, NodeStatus,
};
use axolotl_node::cli::json_rpc::JsonRpc;

use super::DockerCluster;
use crate::{Load, checks, events, membership, wait};

/// Patience for the validators to be as they should.
const AGAIN: Duration = Duration::from_secs(60);

impl DockerCluster {
    /// Labels of the validators, in list order.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn validators(&self) -> anyhow::Result<Vec<String>> {
        membership::validators(self.membership().await?)
    }

    /// All epochs.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn membership(&self) -> anyhow::Result<MembershipResponse> {
        self.get("/membership").await
    }

    /// JSON-RPC of the validators.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn voters(&self) -> anyhow::Result<Vec<JsonRpc>> {
        let labels = self.validators().await?;
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        self.rpcs(&labels).await
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn self_status(&self, name: &str) -> anyhow::Result<NodeSelfStatus> {
        let url = format!("{}/status", self.http_of(name).await?);
        Ok(self.http.get(url).send().await?.json().await?)
    }

    /// Waits until the validators are as they should be, all vote, and the registry is about nothing
    /// more.
    ///
    /// # Errors
    /// After a minute.
    pub async fn settled(
        &self,
        what: &str,
        holds: impl Fn(&[String]) -> bool,
    ) -> anyhow::Result<Vec<String>> {
        wait::until(what, AGAIN, async || {
            let labels = self.validators().await?;
            let status = self.status().await?;
            let voting = status.nodes.values().filter(|node| node.voting).count();
            ensure!(
                holds(&labels) && voting == labels.len(),
                "{labels:?}, {voting} vote, about {:?}, recovery {:?}, decided {:?}",
                status.plan,
                status.recovery.map(|recovery| recovery.summary),
                status
                    .decisions
                    .iter()
                    .map(|event| &event.message)
                    .collect::<Vec<_>>()
            );
            Ok(labels)
        })
        .await
    }

    /// Waits until a node is as it should be.
    ///
    /// # Errors
    /// After a minute.
    pub async fn wait_node(
        &self,
        label: &str,
        what: &str,
        holds: impl Fn(&NodeStatus) -> bool,
    ) -> anyhow::Result<()> {
        self.wait(&format!("{label} {what}"), AGAIN, |status| {
            let mut nodes = status.nodes.values();
            let node = nodes.find(|node| node.id.as_str() == label);
            let node = node.with_context(|| format!("there is no {label}"))?;
            ensure!(holds(node), "{node:?}");
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Asks for another number of validators and waits until so many vote.
    ///
    /// # Errors
    /// When it is refused, or after a minute.
    pub async fn scale(&self, target: usize) -> anyhow::Result<()> {
        let wish = serde_json::json!({ "target_nodes": target });
        let (status, answer) = self.post("/scale", &wish).await?;
        println!("scale to {target}: {status} {answer}");
        ensure!(status == 202, "{status}: {answer}");
        let what = format!("{target} validators");
        self.settled(&what, |now| now.len() == target)
            .await
            .map(drop)
    }

    /// Everything that the registry told.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn events(&self) -> anyhow::Result<Vec<Event>> {
        events::read(&self.http, &self.registry_url()).await
    }

    /// What it told of one kind.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn told(&self, kind: EventKind) -> anyhow::Result<Vec<Event>> {
        let mut events = self.events().await?;
        events.retain(|event| event.kind == kind);
        Ok(events)
    }

    /// Transfers of so many senders, handed to all validators.
    ///
    /// # Errors
    /// When none answers.
    pub async fn load(&self, senders: usize) -> anyhow::Result<Load> {
        Load::start(&self.voters().await?, senders).await
    }

    /// From now on transfers are handed to the present validators.
    ///
    /// # Errors
    /// When the registry does not answer.
    pub async fn follow(&self, load: &Load) -> anyhow::Result<()> {
        load.follow(self.voters().await?);
        Ok(())
    }

    /// Ends the load; everything acknowledged is on every validator, and all hold one chain.
    ///
    /// # Errors
    /// With what is missing.
    pub async fn nothing_lost(&self, load: Load) -> anyhow::Result<()> {
        let acknowledged = load.stop().await?;
        println!("{} transfers were acknowledged", acknowledged.len());
        let clients = self.voters().await?;
        checks::all_present(&clients, &acknowledged).await?;
        checks::same_chain(&clients).await.map(drop)
    }
}
