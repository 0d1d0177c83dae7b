//! Orders about a recovery, on a node with its directory, its log, its chain and its network.

mod bench;

use axolotl_common::{
    Epoch, Hash, Height, Round, VolumeId, VoteKind,
    recovery::{Ballot, RegistryStart},
    registry_api::Order,
};
use axolotl_consensus::Input;

use self::bench::{Bench, ballot, key, other_start, start, wait};
use crate::engine::{CONFLICT_RECORD, worker::Done};

const OLD: Epoch = Epoch(0);

fn survey(ballot: Ballot, epoch: Epoch) -> Order {
    Order::Survey { ballot, epoch }
}

fn seal(ballot: Ballot, epoch: Epoch) -> Order {
    Order::Seal {
        ballot,
        epoch,
        forced: false,
    }
}

fn meet(starts: &[RegistryStart]) -> Order {
    Order::Meet {
        starts: starts.to_vec(),
        take_over: false,
    }
}

#[tokio::test]
async fn orders_of_the_wrong_registry_or_ballot_are_refused() {
    let mut bench = Bench::new().await;
    let why = bench.refused(survey(ballot(1), OLD)).await;
    assert!(why.contains("not of the start"), "nobody was met: {why}");
    bench.obeyed(meet(&[start()])).await;
    let elsewhere = Ballot {
        start: other_start(),
        attempt: 9,
    };
    for order in [survey(elsewhere, OLD), seal(elsewhere, OLD)] {
        let why = bench.refused(order).await;
        assert!(why.contains("not of the start"), "{why}");
    }
    let why = bench.refused(meet(&[other_start()])).await;
    assert!(why.contains("not among those"), "{why}");
    // To look promises nothing; to seal does.
    bench.obeyed(survey(ballot(9), OLD)).await;
    let answer = bench.obeyed(survey(ballot(3), OLD)).await;
    assert_eq!((answer.met, answer.promised), (Some(start()), None));
    let answer = bench.obeyed(seal(ballot(3), OLD)).await;
    assert_eq!(answer.promised, Some(ballot(3)));
    for order in [survey(ballot(2), OLD), seal(ballot(2), OLD)] {
        let why = bench.refused(order).await;
        assert!(why.contains("below"), "{why}");
    }
    // So it is after a restart.
    bench = Box::pin(bench.restarted()).await;
    let why = bench.refused(seal(ballot(2), OLD)).await;
    assert!(why.contains("below"), "{why}");
    let why = bench.refused(meet(&[other_start()])).await;
    assert!(why.contains("not among those"), "{why}");
    bench.obeyed(meet(&[start(), other_start()])).await;
    assert!(
        bench
            .refused(seal(ballot(3), OLD))
            .await
            .contains("not of the start")
    );
}

#[tokio::test]
async fn a_living_chain_is_not_sealed() {
    let mut bench = Bench::new().await;
    bench.obeyed(meet(&[start()])).await;
    // Just started.
    bench.runner.start = std::time::Instant::now();
    let survey_of = |answer: axolotl_common::registry_api::RecoveryAnswer| answer.survey.unwrap();
    let answer = survey_of(bench.obeyed(survey(ballot(1), OLD)).await);
    assert!(answer.veto.unwrap().contains("this node started"));
    let why = bench.refused(seal(ballot(1), OLD)).await;
    assert!(why.contains("this node started"), "{why}");
    bench.settle();
    // Votes decided a block.
    let decided = |bench: &mut Bench, at| {
        let status = &bench.runner.status;
        status.send_modify(|status| status.last_decided = at);
    };
    decided(&mut bench, Some(std::time::Instant::now()));
    let why = bench.refused(seal(ballot(1), OLD)).await;
    assert!(why.contains("votes decided a block"), "{why}");
    let forced = Order::Seal {
        ballot: ballot(1),
        epoch: OLD,
        forced: true,
    };
    let why = bench.refused(forced).await;
    assert!(
        why.contains("votes decided a block"),
        "a forced seal obeys the veto: {why}"
    );
    assert_eq!(bench.runner.driver.sealed(), None);
    decided(&mut bench, None);
    let answer = survey_of(bench.obeyed(survey(ballot(1), OLD)).await);
    assert_eq!(answer.veto, None);
    bench.obeyed(seal(ballot(1), OLD)).await;
    // Once sealed it answers at once, whatever it sees.
    decided(&mut bench, Some(std::time::Instant::now()));
    let answer = bench.obeyed(seal(ballot(2), OLD)).await;
    assert_eq!(answer.statement.unwrap().statement.ballot, ballot(2));
    let answer = survey_of(bench.obeyed(survey(ballot(2), OLD)).await);
    assert_eq!(answer.veto, None);
}

#[tokio::test]
async fn a_seal_outlives_the_process() {
    let mut bench = Bench::new().await;
    bench.obeyed(meet(&[start()])).await;
    // The process ends between promise and seal: nothing is sealed.
    bench
        .runner
        .promises
        .promise(&bench.runner.data, &ballot(1))
        .unwrap();
    bench = Box::pin(bench.restarted()).await;
    assert_eq!(bench.runner.driver.sealed(), None);
    let answer = bench.obeyed(seal(ballot(1), OLD)).await;
    let statement = answer.statement.unwrap();
    let sets = bench.runner.chain.sets();
    let chain = bench.runner.chain.spec().chain;
    assert_eq!(statement.check(&chain, &sets), Ok(()));
    assert_eq!(statement.statement.author, bench.key.public());
    assert_eq!(
        (answer.sealed, statement.statement.sealed),
        (Some(OLD), OLD)
    );
    assert_eq!(bench.book().sealed, Some(OLD));
    // After the seal: it is known at once, also where a veto would stand against a new one.
    bench = Box::pin(bench.restarted()).await;
    bench.runner.start = std::time::Instant::now();
    assert_eq!(bench.runner.driver.sealed(), Some(OLD));
    assert_eq!(bench.book().sealed, Some(OLD));
    assert_eq!(bench.runner.status.borrow().sealed, Some(OLD));
    let again = bench.obeyed(seal(ballot(1), OLD)).await.statement.unwrap();
    assert_eq!(again.statement, statement.statement);
    for peer in [2, 3] {
        let (from, vote) = (key(peer).public(), None);
        bench.input(Input::HighestVoteSeen { from, vote }).await;
    }
    bench.input(Input::Work(true)).await;
    assert!(!bench.runner.status.borrow().voting);
    assert_eq!(bench.runner.driver.round(), None);
}

#[tokio::test]
async fn whoever_cannot_answer_for_its_votes_is_no_survivor() {
    // Another volume than the genesis names.
    let mut bench = Bench::with_volume(VolumeId([77; 16])).await;
    bench.obeyed(meet(&[start()])).await;
    for order in [survey(ballot(1), OLD), seal(ballot(1), OLD)] {
        let why = bench.refused(order).await;
        assert!(
            why.contains("no survivor") && why.contains("volume"),
            "{why}"
        );
    }
    // A log that is damaged, or a chain that contradicts a record.
    let mut bench = Bench::new().await;
    bench.obeyed(meet(&[start()])).await;
    bench.runner.unfit = Some("the consensus log is damaged".into());
    let why = bench.refused(seal(ballot(1), OLD)).await;
    assert!(why.contains("damaged"), "{why}");
    // A seal that others know of only.
    let mut bench = Bench::new().await;
    bench.obeyed(meet(&[start()])).await;
    let note = bench.own_seal_note(OLD);
    bench.input(Input::SealSeen(note)).await;
    let why = bench.refused(seal(ballot(1), OLD)).await;
    assert!(why.contains("lacks the seal"), "{why}");
    assert!(bench.book().unfit, "and it says so");
    assert!(bench.runner.status.borrow().unfit.is_some());
    assert_eq!(bench.runner.driver.sealed(), None);
}

#[tokio::test]
async fn a_key_in_use_elsewhere_is_told_to_everybody() {
    let mut bench = Bench::new().await;
    for peer in [2, 3] {
        let (from, vote) = (key(peer).public(), None);
        bench.input(Input::HighestVoteSeen { from, vote }).await;
    }
    assert!(bench.runner.status.borrow().voting);
    assert!(!bench.book().unfit);
    let own = bench.key.clone();
    bench
        .vote(&own, VoteKind::Prevote, Some(Hash([9; 32])))
        .await;
    let unfit = bench.runner.status.borrow().unfit.clone();
    assert!(unfit.unwrap().contains("the log lacks a vote"));
    assert!(bench.book().unfit && !bench.runner.status.borrow().voting);
    bench.obeyed(meet(&[start()])).await;
    let why = bench.refused(seal(ballot(1), OLD)).await;
    assert!(why.contains("no survivor"), "{why}");
}

#[tokio::test]
async fn a_recovery_without_a_lock_from_meeting_to_record() {
    let mut bench = Bench::new().await;
    bench.obeyed(meet(&[start()])).await;
    let own = *bench.obeyed(seal(ballot(1), OLD)).await.statement.unwrap();
    let draft = bench.draft(ballot(1), &[own, bench.statement_of(2, ballot(1))], None);
    let stage = |ballot| Order::Stage {
        ballot,
        draft: Box::new(draft.clone()),
        holders: Vec::new(),
    };
    assert!(bench.refused(stage(ballot(0))).await.contains("below"));
    let answer = bench.obeyed(stage(ballot(2))).await;
    let chain = bench.runner.chain.spec().chain;
    let acknowledgement = answer.acknowledgement.unwrap();
    assert!(acknowledgement.verify(&chain, &draft.hash(&chain)));
    assert_eq!(acknowledgement.ballot, ballot(2));
    assert_eq!(answer.staged.as_ref().unwrap().draft.as_ref(), &draft);
    assert_eq!(answer.promised, Some(ballot(2)));
    // What is staged is there after a restart, and says who is sealed.
    bench = Box::pin(bench.restarted()).await;
    let answer = bench.obeyed(meet(&[start()])).await;
    assert_eq!(answer.staged.unwrap().ballot, ballot(2));
    assert!(bench.book().seals.contains_key(&key(2).public()));
    assert!(bench.refused(stage(ballot(1))).await.contains("below"));
    assert_eq!(bench.runner.driver.epoch(), Some(OLD), "not in force yet");

    let record = bench.sign(&draft, ballot(2), &[2, 5]);
    let mut unsigned = record.clone();
    unsigned.record.number = Epoch(7);
    let why = bench.refused(Order::EpochRecord { record: unsigned }).await;
    assert!(why.contains("authority"), "{why}");
    let mut poor = record.clone();
    poor.acknowledgements.truncate(2);
    bench.refused(Order::EpochRecord { record: poor }).await;
    assert_eq!(bench.runner.driver.epoch(), Some(OLD));

    let order = Order::EpochRecord {
        record: record.clone(),
    };
    bench.obeyed(order.clone()).await;
    wait("the new epoch", &mut bench, |b| {
        b.runner.driver.epoch() == Some(Epoch(1))
    })
    .await;
    assert_eq!(bench.runner.driver.height(), Some(Height(1)));
    assert_eq!(bench.runner.status.borrow().epoch, Epoch(1));
    assert_eq!(
        bench.runner.driver.sealed(),
        Some(OLD),
        "and is no hindrance"
    );
    assert!(bench.runner.work, "the record must come into a block");
    for peer in [2, 5] {
        let (from, vote) = (key(peer).public(), None);
        bench.input(Input::HighestVoteSeen { from, vote }).await;
    }
    assert!(bench.runner.driver.votes());
    bench.obeyed(order.clone()).await;
    // Whoever asks about the old epoch is shown the record.
    for old in [
        survey(ballot(2), OLD),
        seal(ballot(2), OLD),
        stage(ballot(2)),
    ] {
        let answer = bench.answer(old).await;
        assert!(answer.outcome.unwrap_err().contains("epoch 1 is in force"));
        assert_eq!(answer.recovery.record.as_deref(), Some(&record));
        assert!(answer.recovery.statement.is_none() && answer.recovery.survey.is_none());
    }
    assert!(bench.book().seals.contains_key(&bench.key.public()));
    // And after a restart.
    bench = Box::pin(bench.restarted()).await;
    assert_eq!(bench.runner.driver.epoch(), Some(Epoch(1)));
    let answer = bench.obeyed(meet(&[start()])).await;
    assert_eq!(answer.record.as_deref(), Some(&record));
    assert_eq!(answer.staged, None);
}

#[tokio::test]
async fn the_locked_block_is_adopted_by_its_holder_and_by_who_must_fetch_it() {
    let mut bench = Bench::new().await;
    let hash = bench.lock().await;
    bench.obeyed(meet(&[start()])).await;
    let own = *bench.obeyed(seal(ballot(1), OLD)).await.statement.unwrap();
    let lock = own.statement.lock.clone().unwrap();
    assert_eq!((lock.block(), lock.round()), (hash, Round(0)));
    let bytes = bench.runner.locked_block(Some(hash)).unwrap();
    // The holder gives it after a restart as well.
    bench = Box::pin(bench.restarted()).await;
    assert_eq!(bench.runner.locked_block(Some(hash)), Some(bytes.clone()));
    assert_eq!(bench.runner.locked_block(Some(Hash([1; 32]))), None);
    let statements = [own.clone(), bench.statement_of(2, ballot(1))];
    let draft = bench.draft(ballot(1), &statements, Some(hash));
    let stage = Order::Stage {
        ballot: ballot(1),
        draft: Box::new(draft.clone()),
        holders: vec![bench.key.public()],
    };

    // A learner asks its peers; as long as none answers it says so.
    let mut learner = bench.learner().await;
    learner.obeyed(meet(&[start()])).await;
    let why = learner.refused(stage.clone()).await;
    assert!(why.contains("no peer gave the adopted block"), "{why}");
    bench.give_locked(vec![0xc0; 9].into());
    learner.connect(&bench).await;
    let why = learner.refused(stage.clone()).await;
    assert!(
        why.contains("no peer gave the adopted block"),
        "another block is none: {why}"
    );
    bench.give_locked(bytes.clone());
    let answer = learner.obeyed(stage.clone()).await;
    let theirs = answer.acknowledgement.unwrap();
    assert_eq!(theirs.member, learner.key.public());
    assert_eq!(
        learner.runner.locked_block(Some(hash)),
        Some(bytes),
        "now it gives it, too"
    );
    assert_eq!(
        learner.runner.chain.head().height(),
        Height(0),
        "it is in no chain yet"
    );

    let mine = bench.obeyed(stage).await.acknowledgement.unwrap();
    let chain = bench.runner.chain.spec().chain;
    assert!(mine.verify(&chain, &draft.hash(&chain)));
    let record = bench.sign(&draft, ballot(1), &[2, 5]);
    for node in [&mut bench, &mut learner] {
        let record = record.clone();
        node.obeyed(Order::EpochRecord { record }).await;
        wait("the new epoch", node, |b| {
            b.runner.driver.epoch() == Some(Epoch(1))
        })
        .await;
        assert_eq!(
            node.runner.chain.head().hash.0,
            hash.0,
            "the block is final"
        );
        assert_eq!(node.runner.driver.height(), Some(Height(2)));
        assert_eq!(node.runner.chain.staged(), None);
    }
}

#[tokio::test]
async fn a_chain_that_contradicts_a_record_ends_and_votes_no_more() {
    let mut bench = Bench::new().await;
    let statements = [2, 3].map(|seed| bench.statement_of(seed, ballot(1)));
    let draft = bench.draft(ballot(1), &statements, None);
    let record = bench.sign(&draft, ballot(1), &[2, 3, 5]);
    // The record's base is block 0, and votes have decided block 1.
    bench.decide().await;
    let ended = bench.ended(Order::EpochRecord { record }).await;
    assert!(ended.contains("contradicts a record"), "{ended}");
    assert!(bench.runner.status.borrow().unfit.is_some());
    assert!(bench.book().unfit);
    let noted = bench.runner.data.record(CONFLICT_RECORD).unwrap().unwrap();
    assert_eq!(String::from_utf8(noted).unwrap(), ended);
}

#[tokio::test]
async fn a_conflict_found_by_sync_ends_the_process_too() {
    let mut bench = Bench::new().await;
    let ended = bench
        .runner
        .on_done(Done::Conflict("two blocks".into()))
        .await;
    assert!(ended.unwrap_err().0.contains("two blocks"));
    assert!(bench.runner.data.record(CONFLICT_RECORD).unwrap().is_some());
}

#[tokio::test]
async fn peers_learn_of_a_record_when_they_connect() {
    let mut bench = Bench::new().await;
    let mut zombie = bench.learner().await;
    let statements = [2, 3].map(|seed| bench.statement_of(seed, ballot(1)));
    let draft = bench.draft(ballot(1), &statements, None);
    let record = bench.sign(&draft, ballot(1), &[2, 3, 5]);
    bench
        .obeyed(Order::EpochRecord {
            record: record.clone(),
        })
        .await;
    wait("the new epoch", &mut bench, |b| {
        b.runner.driver.epoch() == Some(Epoch(1))
    })
    .await;
    bench.timers = true;
    zombie.connect(&bench).await;
    // It hears of the record from the peer alone.
    let told = std::time::Instant::now();
    while zombie.runner.driver.epoch() != Some(Epoch(1)) {
        assert!(told.elapsed().as_secs() < 20, "the record did not come");
        bench.turn().await;
        zombie.turn().await;
    }
    // Nobody lacks it any more: it is not told again.
    wait("its status", &mut bench, |b| {
        b.runner.network.peers().iter().all(|peer| {
            let status = peer.status.as_ref();
            status.is_none_or(|status| status.epoch == Epoch(1))
        })
    })
    .await;
}

#[tokio::test]
async fn who_signs_two_things_in_one_place_is_told() {
    let mut bench = Bench::new().await;
    let (block, liar) = (bench.lock().await, key(4));
    for vote in [Hash([1; 32]), Hash([2; 32])] {
        bench.vote(&liar, VoteKind::Precommit, Some(vote)).await;
    }
    for peer in [2, 3] {
        let precommit = VoteKind::Precommit;
        bench.vote(&key(peer), precommit, Some(block)).await;
    }
    wait("the evidence", &mut bench, |bench| {
        let status = bench.runner.status.borrow();
        status.misbehaving.iter().eq([&liar.public()])
    })
    .await;
}

#[tokio::test]
async fn two_records_of_one_number_are_told() {
    let mut bench = Bench::new().await;
    let statements = [2, 3].map(|seed| bench.statement_of(seed, ballot(1)));
    let [first, second] = [1, 2].map(|attempt| {
        let draft = bench.draft(ballot(attempt), &statements, None);
        bench.sign(&draft, ballot(attempt), &[2, 3, 5])
    });
    let in_force = first.record.hash(&bench.runner.chain.spec().chain);
    bench.obeyed(Order::EpochRecord { record: first }).await;
    let why = bench.refused(Order::EpochRecord { record: second }).await;
    assert!(why.contains("two records of epoch 1"), "{why}");
    let status = bench.runner.status.borrow().clone();
    let authority = bench.runner.chain.spec().authority_key;
    assert!(status.misbehaving.iter().eq(&authority), "{status:?}");
    let validators = &bench.runner.chain.head().validators;
    assert_eq!(validators.record_hash(), in_force, "the first one stays");
}
