//! Who votes, by the registry's word.

use anyhow::Context;
use axolotl_common::registry_api::MembershipResponse;

/// Labels of the validators of the epoch in force, in list order.
///
/// # Errors
/// When there is no epoch yet.
pub fn validators(membership: MembershipResponse) -> anyhow::Result<Vec<String>> {
    let epoch = membership.epoch.context("no epoch yet")?;
    let mut records = membership.records.into_iter();
    let record = records.find(|signed| signed.record.number == epoch);
    let members = record.context("no record of the epoch")?.record.members;
    let label = |member: &axolotl_common::Member| member.node_id.to_string();
    Ok(members.iter().map(label).collect())
}

/// The middle of these times; sorts them.
pub fn median(times: &mut [std::time::Duration]) -> std::time::Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
