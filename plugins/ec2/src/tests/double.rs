//! What moto does not do as EC2 does: a client token stands for one instance, what was made is shown later, places are
//! full, and too many requests are refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
    sync::Mutex,
    thread,
    time::Duration,
};

use pacer_backend::{
    Backend, Error, ErrorKind, InstanceState,
    http::{Request, Response, Transport},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Memory, PATIENCE, create, pool, request,
    script::{self, Sent, parameters},
    within,
};
use crate::Instances;

/// EC2 as far as tokens, room, visibility and its limits go.
#[derive(Default)]
struct Double(Mutex<State>);

#[derive(Default)]
struct State {
    /// Instance and parameters by client token.
    launched: BTreeMap<String, (String, Sent)>,
    /// Launches, in the order in which they were asked for.
    asked: Vec<Sent>,
    /// Types, subnets and markets without room: `t1 in s1 on spot`.
    full: BTreeSet<String>,
    /// Looks until an instance is shown.
    hidden: usize,
    /// Which launches, counted from 0, take effect and are never answered.
    lost: BTreeSet<usize>,
    /// Launches that are one too many.
    throttled: usize,
    /// How long a launch takes.
    slow: Duration,
}

impl State {
    fn launch(&mut self, sent: Sent) -> Result<(u16, String), Error> {
        let number = self.asked.len();
        self.asked.push(sent.clone());
        if self.throttled > 0 {
            self.throttled -= 1;
            return Ok((503, script::error("RequestLimitExceeded")));
        }
        let answer = match self.launched.get(&sent["ClientToken"]) {
            Some((id, first)) if *first == sent => (200, shown(id)),
            Some(_) => (400, script::error("IdempotentParameterMismatch")),
            None if self.full.contains(&place(&sent)) => (500, script::error("InsufficientInstanceCapacity")),
            None => {
                let id = format!("i-{}", self.launched.len() + 1);
                self.launched.insert(sent["ClientToken"].clone(), (id.clone(), sent));
                (200, shown(&id))
            }
        };
        if self.lost.contains(&number) {
            return Err(Error::unavailable("the connection was reset"));
        }
        Ok((
            answer.0,
            if answer.0 == 200 {
                format!("<RunInstancesResponse>{}</RunInstancesResponse>", answer.1)
            } else {
                answer.1
            },
        ))
    }

    fn look(&mut self) -> String {
        if self.hidden > 0 {
            self.hidden -= 1;
            return script::NONE.to_owned();
        }
        let all: String = self.launched.values().map(|(id, _)| format!("<item>{}</item>", shown(id))).collect();
        format!("<DescribeInstancesResponse><reservationSet>{all}</reservationSet></DescribeInstancesResponse>")
    }
}

fn shown(id: &str) -> String {
    format!("<instancesSet>{}</instancesSet>", script::item(id, "pending", ""))
}

fn place(sent: &Sent) -> String {
    let market = if sent.contains_key("InstanceMarketOptions.MarketType") { " on spot" } else { "" };
    format!("{} in {}{market}", sent["InstanceType"], sent["SubnetId"])
}

impl Transport for Double {
    fn send(&self, request: &Request, _: Duration) -> Result<Response, Error> {
        let sent = parameters(request);
        let mut state = self.0.lock().unwrap();
        let (status, body) = match sent["Action"].as_str() {
            "RunInstances" => {
                let (slow, answer) = (state.slow, state.launch(sent));
                drop(state);
                thread::sleep(slow);
                answer?
            }
            "DescribeInstances" => (200, state.look()),
            "DescribeSpotPriceHistory" => (
                200,
                "<DescribeSpotPriceHistoryResponse><spotPriceHistorySet/></DescribeSpotPriceHistoryResponse>".into(),
            ),
            other => panic!("nobody asks for `{other}` here"),
        };
        Ok(Response::new(request.to_string(), status, vec![], Box::new(Cursor::new(body))))
    }
}

fn places() -> Value {
    json!({ "instance_types": ["t1", "t2"], "subnets": ["s1", "s2"], "market": "spot-then-on-demand" })
}

fn all_places() -> Vec<String> {
    let types = ["t1", "t2"].iter().flat_map(|kind| ["s1", "s2"].map(|subnet| format!("{kind} in {subnet}")));
    let types: Vec<String> = types.collect();
    types.iter().map(|place| format!("{place} on spot")).chain(types.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn there_is_one_instance_whatever_is_full_hidden_and_lost(
        full in proptest::collection::vec(any::<bool>(), 8), lost in proptest::collection::btree_set(0usize..10, 0..5),
        hidden in 0usize..3, at_once in 1usize..4,
    ) {
        let all = all_places();
        let full: BTreeSet<String> = all.iter().zip(&full).filter(|(_, full)| **full).map(|(place, _)| place.clone()).collect();
        let first = all.iter().find(|place| !full.contains(*place)).cloned();
        let (double, memory) = (Double::default(), Memory::default());
        *double.0.lock().unwrap() = State { full, lost, hidden, ..State::default() };
        // As the host does: again and again while an answer is missing.
        let called = || loop {
            match create(&double, &memory, places()) {
                Err(error) if error.kind == ErrorKind::Unavailable => {}
                other => return other.map(|made| made.handle).map_err(|error| error.kind),
            }
        };
        let answers: Vec<_> = thread::scope(|scope| {
            let calls: Vec<_> = (0..at_once).map(|_| scope.spawn(called)).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let state = double.0.lock().unwrap();
        let made: Vec<String> = state.launched.values().map(|(_, sent)| place(sent)).collect();
        prop_assert_eq!(&made, &first.clone().into_iter().collect::<Vec<_>>());
        for answer in answers {
            match answer {
                Ok(handle) => prop_assert!(first.is_some() && handle.starts_with("i-1/")),
                Err(kind) => prop_assert!(first.is_none() && kind == ErrorKind::Capacity),
            }
        }
    }
}

#[test]
fn an_answer_that_was_lost_is_no_second_instance_with_another_lease_either() {
    // `hidden`: the looks that find nothing, from "seen at once" to "seen long after".
    for hidden in [0, 1, 3] {
        let (double, memory) = (Double::default(), Memory::default());
        double.0.lock().unwrap().full.insert("t1 in s1 on spot".into());
        double.0.lock().unwrap().lost.insert(1);
        assert!(create(&double, &memory, places()).is_err());
        double.0.lock().unwrap().hidden = hidden;
        let mut again = request("pacer-a", "app-1", pool(places()));
        again.lease_until_ms = 1_900_000_000_999;
        let made = within(PATIENCE, &double, &memory, |call| Instances::create(call, again)).unwrap();
        assert!(made.handle.starts_with("i-1/") && matches!(made.state, InstanceState::Creating));
        assert_eq!(double.0.lock().unwrap().launched.len(), 1, "hidden {hidden}");
    }
}

#[test]
fn a_shortage_on_spot_leads_to_on_demand_however_many_places_there_are() {
    let names = |kind: &str, count: usize| (0..count).map(|n| format!("{kind}{n}")).collect::<Vec<_>>();
    let (types, subnets) = (names("t", 20), names("s", 20));
    let pool = json!({ "instance_types": &types, "subnets": &subnets, "market": "spot-then-on-demand" });
    let (double, memory) = (Double::default(), Memory::default());
    let spot = types.iter().flat_map(|kind| subnets.iter().map(move |subnet| format!("{kind} in {subnet} on spot")));
    double.0.lock().unwrap().full = spot.collect();
    create(&double, &memory, pool.clone()).unwrap();
    let asked: Vec<String> = double.0.lock().unwrap().asked.iter().map(place).collect();
    assert_eq!((asked.len(), asked[20].as_str()), (21, "t0 in s0"), "{asked:?}");
    // Another runner of the pool does not ask again for what was refused a moment ago.
    let other = request("pacer-b", "app-1", serde_json::from_value(pool_of(&pool)).unwrap());
    let _ = within(PATIENCE, &double, &memory, |call| Instances::create(call, other));
    let asked: Vec<String> = double.0.lock().unwrap().asked.iter().skip(21).map(place).collect();
    assert_eq!(asked[0], "t1 in s0 on spot", "{asked:?}");
}

fn pool_of(more: &Value) -> Value {
    let mut whole = json!({ "ami": "ami-12c6146b" });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    whole
}

#[test]
fn attempts_end_before_the_call_does_and_each_market_has_its_share() {
    let (double, memory) = (Double::default(), Memory::default());
    let names = (0..20).map(|n| format!("t{n}")).collect::<Vec<_>>();
    {
        let mut state = double.0.lock().unwrap();
        state.full = names.iter().flat_map(|kind| [format!("{kind} in s on spot"), format!("{kind} in s")]).collect();
        state.slow = Duration::from_millis(200);
    }
    let more = json!({ "instance_types": names, "subnets": ["s"], "market": "spot-then-on-demand" });
    let asked = request("pacer-a", "app-1", pool(more));
    let error = within(Duration::from_secs(4), &double, &memory, |call| Instances::create(call, asked)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Capacity, "{}", error.message);
    assert!(error.message.contains("are left for the next try"), "{}", error.message);
    let asked: Vec<String> = double.0.lock().unwrap().asked.iter().map(place).collect();
    assert!(asked.len() < 40 && asked.iter().any(|place| !place.ends_with("on spot")), "{asked:?}");
}

#[test]
fn a_launch_that_is_one_too_many_is_asked_for_again_as_it_was() {
    let (double, memory) = (Double::default(), Memory::default());
    double.0.lock().unwrap().throttled = 2;
    create(&double, &memory, places()).unwrap();
    let state = double.0.lock().unwrap();
    assert_eq!(state.asked.len(), 3);
    assert!(state.asked.iter().all(|asked| *asked == state.asked[0]), "to the letter");
    drop(state);
    // Until the call has no more time.
    let double = Double::default();
    double.0.lock().unwrap().throttled = usize::MAX;
    let asked = request("pacer-a", "app-1", pool(places()));
    let error =
        within(Duration::from_secs(4), &double, &Memory::default(), |call| Instances::create(call, asked)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::RateLimited, "{}", error.message);
    assert!(double.0.lock().unwrap().asked.len() > 1);
}
