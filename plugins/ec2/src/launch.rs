//! Launching: one attempt after the other until EC2 has room, and never two instances for one name.

use std::{
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_backend::{Error, Instance, Price, RunnerRequest, bootstrap, log, time};

use crate::{
    api::{Ec2, Form},
    attempt::{Refused, attempts, plan},
    fault::{Fault, Refusal, together},
    fleet::fleet,
    instance::{Seen, seen},
    leftover::tagged,
    machine::{client_token, run},
    settings::Pool,
};

/// What EC2 takes as user-data, before it is encoded.
pub const USER_DATA_MAX: usize = 16 * 1024;
/// How long an instance that EC2 says it has made is looked for.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(500);

pub fn create(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>) -> Result<Instance, Error> {
    let user_data = STANDARD.encode(bootstrap::user_data_within(USER_DATA_MAX, &request.bootstrap)?);
    let launched = match by_name(ec2, request)? {
        Some(found) => found,
        None if request.pool.fleet => fleet(ec2, request, &user_data)?,
        None => one_by_one(ec2, request, &user_data)?,
    };
    Ok(priced(ec2, &request.pool, launched).into_instance())
}

/// The instance of this name, if there ever was one as far as EC2 remembers: a name is used once.
fn by_name(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>) -> Result<Option<Seen>, Fault> {
    let form = tagged("DescribeInstances", &request.owner, &[&request.name]);
    let mut mine = ec2.ask_patiently(&form, seen)?;
    mine.retain(|seen| seen.owner == request.owner && seen.name == request.name);
    mine.sort_by_key(|seen| !seen.is_alive());
    Ok(mine.into_iter().next())
}

fn one_by_one(ec2: &Ec2<'_, '_>, request: &RunnerRequest<Pool>, user_data: &str) -> Result<Seen, Fault> {
    let cache = ec2.0.cache;
    // A call that was cut off goes on where it was: what it asked for last may have been made.
    let key = format!("attempt/{}", request.name);
    let under_way = cache.get(&key).and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
    let known = Refused::new(cache, &request.pool);
    let (markets, mut left) = plan(attempts(&request.pool, &request.tags), under_way, |attempt| known.has(attempt));
    // What is kept of the call is for the answer to its last attempt.
    let end = Instant::now() + ec2.0.remaining().mul_f64(0.75);
    let mut refused: Vec<(String, Refusal)> = Vec::new();
    for (number, market) in markets.iter().enumerate() {
        let turns = u32::try_from(markets.len() - number).unwrap_or(u32::MAX);
        let turn_ends = Instant::now() + end.saturating_duration_since(Instant::now()) / turns;
        for (tried, attempt) in market.iter().enumerate() {
            // Each market has one attempt at least.
            if tried > 0 && Instant::now() >= turn_ends {
                left += market.len() - tried;
                break;
            }
            cache.set(&key, attempt.index.to_string().as_bytes());
            match ec2.ask_patiently(&run(request, attempt, user_data), seen) {
                Ok(launched) => {
                    cache.delete(&key);
                    let launched = launched.into_iter().next().ok_or_else(|| {
                        Error::unavailable(
                            "EC2 launched an instance and did not say which; it is looked for by its tags",
                        )
                    })?;
                    return Ok(made_for(request, launched));
                }
                // The same token with another lease: the first try had its instance.
                Err(Fault::Refused(refusal)) if refusal.is_of_used_token() => {
                    let token = client_token(&request.owner, &request.name, attempt.index);
                    let form = Form::new("DescribeInstances").filter("client-token", &[&token]);
                    return Ok(made_for(request, shown(ec2, &request.name, &form, |_| true)?));
                }
                Err(Fault::Refused(refusal)) if refusal.is_worth_another() => {
                    if refusal.is_shortage() {
                        known.remember(attempt);
                    }
                    refused.push((attempt.to_string(), refusal));
                }
                Err(fault) => return Err(fault),
            }
        }
    }
    cache.delete(&key);
    Err(together(&request.name, &refused, left).into())
}

/// Tags may come later than the instance; what was asked for is known.
pub fn made_for(request: &RunnerRequest<Pool>, mut seen: Seen) -> Seen {
    seen.owner.clone_from(&request.owner);
    seen.name.clone_from(&request.name);
    seen
}

/// The instance that EC2 has made, once it shows it.
pub fn shown(ec2: &Ec2<'_, '_>, name: &str, form: &Form, is_it: impl Fn(&Seen) -> bool) -> Result<Seen, Fault> {
    let until = Instant::now() + SHOWN_WITHIN.min(ec2.0.remaining() / 2);
    loop {
        match ec2.ask_patiently(form, seen) {
            Ok(found) => {
                if let Some(found) = found.into_iter().find(&is_it) {
                    return Ok(found);
                }
            }
            Err(Fault::Refused(refusal)) if refusal.is_unknown_instance() => {}
            Err(fault) => return Err(fault),
        }
        if Instant::now() >= until {
            return Err(Error::unavailable(format!("EC2 does not show the instance of `{name}` yet")).into());
        }
        thread::sleep(POLL);
    }
}

/// With what it costs, where its tags do not tell: by its own type and market, not by the pool's first.
fn priced(ec2: &Ec2<'_, '_>, pool: &Pool, mut launched: Seen) -> Seen {
    launched.price = match &launched.instance_type {
        _ if launched.price.is_some() || launched.is_terminated => launched.price.clone(),
        Some(kind) if launched.is_spot => spot_price(ec2, &[kind], launched.zone.as_deref()).unwrap_or_else(|fault| {
            let why = Error::from(fault).message;
            log!(Warn, "what a spot instance costs cannot be learnt: {}", why; "instance" => launched.id);
            None
        }),
        Some(kind) => pool.price_of(kind),
        None => None,
    };
    launched
}

/// What the dearest of these types costs on spot now, in a zone or in the dearest zone. None if one of them is not told.
pub fn spot_price(ec2: &Ec2<'_, '_>, kinds: &[&str], zone: Option<&str>) -> Result<Option<Price>, Fault> {
    let mut form = Form::new("DescribeSpotPriceHistory")
        .set("ProductDescription.1", "Linux/UNIX")
        // From now on: the price in force of each type and zone.
        .set("StartTime", time::rfc3339(time::now()))
        .set("MaxResults", "1000")
        .maybe("AvailabilityZone", zone);
    for (index, kind) in kinds.iter().enumerate() {
        form = form.set(format!("InstanceType.{}", index + 1), *kind);
    }
    let told = ec2.ask(&form, |root| {
        let all = crate::api::items(root, "spotPriceHistorySet").into_iter();
        let read = |item| Some((crate::api::text(item, "instanceType")?, crate::api::text(item, "spotPrice")?));
        all.filter_map(read)
            .filter_map(|(kind, price)| Some((kind, Price::per_hour(&price, "USD")?)))
            .collect::<Vec<_>>()
    })?;
    let all_told = kinds.iter().all(|kind| told.iter().any(|(of, _)| of == kind));
    Ok(told.into_iter().map(|(_, price)| price).max_by_key(|price| price.micros_per_hour).filter(|_| all_told))
}
