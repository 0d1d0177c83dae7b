//! `POST /recover` and what nodes say of recoveries, against a real server.
#![allow(clippy::unwrap_used, reason = "a test that fails should say where")]

mod support;

use axolotl_common::{
    NodeId, ProcessId,
    recovery::{Ballot, RegistryStart, StartId},
    registry_api::{
        ControlAnswer, MAX_ANSWER_BYTES, MembershipResponse, RecoveryAnswer, RegisterRequest,
        RegisterResponse, problem,
    },
};
use reqwest::Method;
use support::{
    Answer, Calls, TestRegistry, beat, key, next_counter, now_ms, request, unhealthy_after,
    wait_for,
};

async fn recover(api: &Calls, body: &str) -> Answer {
    let token = std::fs::read_to_string(&api.admin_token).unwrap();
    let call = api
        .http
        .post(format!("{}/recover", api.url))
        .header("content-type", "application/json")
        .bearer_auth(token)
        .body(body.to_owned());
    api.send(call).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_word_is_refused_with_the_arithmetic() {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    let loss = r#"{"epoch":0,"accept_data_loss":true}"#;
    let call = api
        .http
        .post(format!("{}/recover", api.url))
        .header("content-type", "application/json")
        .body(loss);
    api.send(call).await.unwrap().problem(401);
    assert!(
        recover(&api, loss)
            .await
            .problem(409)
            .detail
            .contains("no chain")
    );
    api.register_all(4).await;
    for i in 1..=4 {
        assert_eq!(api.beat(&key(i), &beat(i, 1, 1)).await.status, 200);
    }
    for body in [
        "{\"epoch\":0}",
        r#"{"epoch":0,"accept_data_loss":true,"take_over":true}"#,
    ] {
        assert!(
            recover(&api, body)
                .await
                .problem(422)
                .detail
                .contains("one thing")
        );
    }
    let other = recover(&api, r#"{"epoch":7,"accept_data_loss":true}"#).await;
    assert!(other.problem(409).detail.contains("epoch 0 is in force"));
    let lives = recover(&api, loss).await.problem(409).detail;
    assert!(lives.contains("4 of 4 validators are alive"), "{lives}");
    let over = recover(&api, r#"{"epoch":0,"take_over":true}"#).await;
    let over = over.problem(409).detail;
    assert!(over.contains("needs the answers of 3 of 4"), "{over}");
    wait_for("nothing to recover", || async {
        let shown = api.status().await.recovery;
        if shown.is_none() { Ok(()) } else { Err(shown) }
    })
    .await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_quorum_is_shown_with_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &unhealthy_after("300ms")).await;
    let api = registry.api();
    api.register_all(4).await;
    let shown = wait_for("a recovery in /status", || async {
        api.status().await.recovery.ok_or(())
    })
    .await;
    assert_eq!((shown.validators, shown.quorum, shown.needed), (4, 3, 2));
    assert_eq!((shown.survivors, shown.margin), (0, -2));
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_registry_does_nothing_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    api.register_all(4).await;
    for i in 1..=4 {
        assert_eq!(api.beat(&key(i), &beat(i, 1, 1)).await.status, 200);
    }
    // Two of four have met a start that this store does not know: one more than may lie.
    for i in 1..=2 {
        let met = RegistryStart {
            counter: 7,
            id: StartId([7; 16]),
        };
        let answer = ControlAnswer {
            node_id: NodeId::numbered(i.into()),
            number: 1,
            done: false,
            detail: "it is older".to_owned(),
            recovery: Some(Box::new(RecoveryAnswer {
                met: Some(met),
                ..RecoveryAnswer::default()
            })),
        };
        let call = api.signed(&key(i), Method::POST, "/control/answers", &answer);
        assert_eq!(api.send(call).await.unwrap().status, 202);
    }
    assert_eq!(api.get("/readyz").await.status, 503);
    // Something to be done: it is not.
    let token = std::fs::read_to_string(&api.admin_token).unwrap();
    let call = api.http.post(format!("{}/scale", api.url));
    let call = call
        .bearer_auth(token)
        .json(&serde_json::json!({ "target_nodes": 3 }));
    assert_eq!(api.send(call).await.unwrap().status, 202);
    let plan = wait_for("a plan", || async {
        let plan = api.status().await.plan;
        if plan.is_empty() { Err(plan) } else { Ok(plan) }
    })
    .await;
    assert!(plan.len() == 1 && plan[0].contains("refused"), "{plan:?}");
    let membership: MembershipResponse = api.get("/membership").await.json();
    assert_eq!((membership.records.len(), membership.pending), (1, None));
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    api.register_all(1).await;
    let answer = ControlAnswer {
        node_id: NodeId::numbered(1),
        number: 1,
        done: true,
        detail: String::new(),
        recovery: Some(Box::new(RecoveryAnswer::default())),
    };
    let call = api.signed(&key(1), Method::POST, "/control/answers", &answer);
    assert_eq!(api.send(call).await.unwrap().status, 202);
    let start = |counter| RegistryStart {
        counter,
        id: StartId([7; 16]),
    };
    let ballot = |counter, attempt| Ballot {
        start: start(counter),
        attempt,
    };
    for (met, promised, status) in [
        (Some(start(50)), Some(ballot(60, 70)), 202),
        (Some(start(u64::MAX)), None, 422),
        (None, Some(ballot(u64::MAX, 1)), 422),
        (None, Some(ballot(1, u64::MAX)), 422),
    ] {
        let recovery = RecoveryAnswer {
            met,
            promised,
            ..RecoveryAnswer::default()
        };
        let told = ControlAnswer {
            recovery: Some(Box::new(recovery)),
            ..answer.clone()
        };
        let call = api.signed(&key(1), Method::POST, "/control/answers", &told);
        assert_eq!(api.send(call).await.unwrap().status, status, "{told:?}");
    }
    for (bytes, status) in [(MAX_ANSWER_BYTES, 202), (MAX_ANSWER_BYTES + 1, 413)] {
        let mut body = serde_json::to_vec(&answer).unwrap();
        body.resize(bytes, b' ');
        let call = api.signed_at(
            &key(1),
            Method::POST,
            "/control/answers",
            &body,
            now_ms(),
            next_counter(),
        );
        assert_eq!(api.send(call).await.unwrap().status, status);
    }
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let registry = TestRegistry::start(dir.path(), &[]).await;
    let api = registry.api();
    api.register_all(4).await;
    let first: RegisterResponse = api.register(&key(1), &request(1)).await.json();
    assert_eq!(api.beat(&key(1), &beat(1, 1, 1)).await.status, 200);
    // While the stream of the first is open and it is heard, a second process is refused.
    let call = api.signed_get(&key(1), "/control");
    let stream = call.send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let second = RegisterRequest {
        incarnation: 2,
        process: ProcessId([92; 16]),
        ..request(1)
    };
    // So is one from a copy of the directory, with as many starts.
    let copied = RegisterRequest {
        process: ProcessId([93; 16]),
        ..request(1)
    };
    let refused_with = async |other: &RegisterRequest, words: &str| {
        let refused = api.register(&key(1), other).await.problem(409);
        assert_eq!(refused.kind, problem::OTHER_PROCESS);
        assert!(refused.detail.contains(words), "{}", refused.detail);
        let is_for = |process| {
            refused.refuses_process(&first.authority_key, 7777, &key(1).public(), process)
        };
        assert!(
            is_for(&other.process) && !is_for(&request(1).process),
            "{refused:?}"
        );
    };
    refused_with(&second, "alive in another process").await;
    refused_with(&copied, "another process, which is at start 1").await;
    // A refused call takes nothing from the first one, however far ahead its clock is.
    let body = serde_json::to_vec(&second).unwrap();
    let ahead = now_ms() + 20_000;
    let call = api.signed_at(&key(1), Method::POST, "/register", &body, ahead, ahead);
    api.send(call).await.unwrap().problem(409);
    assert_eq!(api.beat(&key(1), &beat(1, 2, 1)).await.status, 200);
    assert_eq!(api.register(&key(1), &request(1)).await.status, 200);
    // A restart closes its stream, and is let in at once; a copy with fewer starts is not.
    drop(stream);
    let welcome = wait_for("the restart", || async {
        let answer = api.register(&key(1), &second).await;
        match answer.status.as_u16() {
            200 => Ok(answer.json::<RegisterResponse>()),
            _ => Err(answer),
        }
    })
    .await;
    assert_eq!(welcome.node_id, NodeId::numbered(1));
    refused_with(&copied, "another process, which is at start 2").await;
    registry.stop().await;
}
