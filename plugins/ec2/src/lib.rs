//! Runners as instances of EC2, or of any API that speaks its Query protocol.
//!
//! What holds here:
//! * A request carries no signature: the host adds it to what leaves the sandbox.
//! * Before anything is launched, the instances of this runner are looked for by their tags. Each attempt has a client
//!   token of its own, the same at every repetition, so that an answer that was lost is not an instance that was lost.
//! * An instance that EC2 does not show yet is `creating`, not gone: its age is part of the handle.
//! * Whatever is made for a runner has the tags of its owner and name. What outlives its instance is listed as a stopped one.
//! * The bootstrap is user-data and nothing else: no tag, name, error or log.
//!
//! Not here: networks, images and permissions, which the operator makes; stopped instances that are started again.

mod api;
mod attempt;
mod fault;
mod fleet;
mod instance;
mod launch;
mod leftover;
mod machine;
mod settings;
#[cfg(test)]
mod tests;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_backend::{
    Backend, Billing, Call, Description, Destruction, EndpointRequest, Error, Finding, Instance, InstanceState, Page,
    Price, RunnerRequest, settings::refuse, text, time,
};

use api::{Ec2, Form};
use fault::Fault;
use instance::{Handle, LEASE, Seen, seen};
use settings::{Market, Pool, Settings};

/// The name of the endpoint.
const ENDPOINT: &str = "ec2";
/// Instances in one page of a listing; EC2 takes 5 to 1,000.
const PAGE: u32 = 500;
/// How long EC2 may not show an instance that it has just made. It says "eventually"; this is far beyond what is seen.
const SHOWN_WITHIN_MS: u64 = 5 * 60 * 1000;

/// The backend.
pub struct Instances;
pacer_backend::export!(Instances);
type C<'a> = Call<'a, Settings>;

impl Backend for Instances {
    type Settings = Settings;
    type Pool = Pool;

    fn describe() -> Description {
        Description {
            name: "ec2".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "runners on instances of EC2".into(),
            settings_schema: settings::backend_schema(),
            pool_schema: settings::pool_schema(),
            endpoints: vec![EndpointRequest {
                name: ENDPOINT.into(),
                purpose: "the EC2 API of one region, with a credential that signs requests for it".into(),
                required: true,
                example: "https://ec2.eu-west-1.amazonaws.com".into(),
            }],
            capabilities: ["renew-lease", "console-log", "quote"].map(String::from).into(),
            bootstraps: ["cloud-init", "start-script"].map(String::from).into(),
            // Linux by the second, a minute at least.
            billing: Billing { granularity_seconds: 1, minimum_seconds: 60 },
            attributes: vec![],
        }
    }

    fn validate(_settings: &Settings, pool: Option<&Pool>) -> Vec<Finding> {
        pool.map(Pool::findings).unwrap_or_default()
    }

    fn create(call: &C<'_>, request: RunnerRequest<Pool>) -> Result<Instance, Error> {
        refuse(&request.pool.findings())?;
        launch::create(&Ec2(call), &request)
    }

    fn get(call: &C<'_>, handle: &str) -> Result<Option<Instance>, Error> {
        let Some(handle) = Handle::parse(handle) else { return Ok(None) };
        find(&Ec2(call), &handle)
    }

    fn list(call: &C<'_>, owner: &str, cursor: Option<&str>) -> Result<Page, Error> {
        let ec2 = Ec2(call);
        let form = leftover::tagged("DescribeInstances", owner, &[])
            .filter("instance-state-name", &["pending", "running", "stopping", "stopped", "shutting-down"])
            .set("MaxResults", PAGE.to_string())
            .maybe("NextToken", cursor);
        let (mut found, next) = ec2.ask(&form, |root| (seen(root), api::next_token(root)))?;
        found.retain(|found| found.owner == owner);
        let mut instances: Vec<Instance> = found.into_iter().map(Seen::into_instance).collect();
        if next.is_none() {
            instances.extend(leftover::listed(&ec2, owner)?);
        }
        Ok(Page { instances, next })
    }

    fn destroy(call: &C<'_>, handle: &str, _grace_ms: u64) -> Result<Destruction, Error> {
        let Some(handle) = Handle::parse(handle) else { return Ok(Destruction::Gone) };
        let ec2 = Ec2(call);
        if let Some(id) = &handle.id {
            let is_over = look(&ec2, &handle, id)?.map_or_else(|| !is_young(&handle), |seen| seen.is_terminated);
            if !is_over {
                // A termination shuts the system down first, for as long as EC2 gives it.
                match ec2.ask(&Form::new("TerminateInstances").set("InstanceId.1", id), |_| ()) {
                    Err(Fault::Refused(refusal)) if refusal.is_unknown_instance() => {}
                    done => done?,
                }
                return Ok(Destruction::Stopping);
            }
        }
        leftover::remove(&ec2, leftover::find(&ec2, &handle.owner, &[&handle.name])?)?;
        Ok(Destruction::Gone)
    }

    fn renew_lease(call: &C<'_>, handle: &str, until_ms: u64) -> Result<(), Error> {
        let form = Form::new("CreateTags")
            .set("ResourceId.1", known(handle)?)
            .set("Tag.1.Key", LEASE)
            .set("Tag.1.Value", until_ms.to_string());
        Ok(Ec2(call).ask(&form, |_| ())?)
    }

    fn console_log(call: &C<'_>, handle: &str, max_bytes: u32) -> Result<String, Error> {
        let form = Form::new("GetConsoleOutput").set("InstanceId", known(handle)?);
        let ask = |form: &Form| Ec2(call).ask(form, |root| api::text(root, "output").unwrap_or_default());
        let encoded = match ask(&form.clone().set("Latest", "true")) {
            // Only some kinds of instances give the latest; the others give what was buffered at some time.
            Err(Fault::Refused(refusal)) if refusal.is_unsupported() => ask(&form)?,
            answer => answer?,
        };
        let packed: String = encoded.split_whitespace().collect();
        let bytes = STANDARD.decode(packed).map_err(|_| Error::unavailable("EC2's console output is not base64"))?;
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        text::tail(bytes.as_slice(), max).map_err(|error| Error::internal(error.to_string()))
    }

    /// The most that a machine of the pool costs, whichever of its types and markets it comes from. None where that is not
    /// known of one of them.
    fn quote(call: &C<'_>, pool: Pool) -> Result<Option<Price>, Error> {
        refuse(&pool.findings())?;
        let kinds: Vec<&str> = pool.instance_types.iter().map(String::as_str).collect();
        if kinds.is_empty() {
            return Ok(None);
        }
        let mut all = Vec::new();
        if pool.market != Market::Spot {
            all.extend(kinds.iter().map(|kind| pool.price_of(kind)));
        }
        if pool.market != Market::OnDemand {
            all.push(launch::spot_price(&Ec2(call), &kinds, None)?);
        }
        let all: Option<Vec<Price>> = all.into_iter().collect();
        Ok(all.and_then(|all| all.into_iter().max_by_key(|price| price.micros_per_hour)))
    }
}

/// The id of a handle's instance.
fn known(handle: &str) -> Result<String, Error> {
    let absent = || Error::not_found(format!("EC2 has no instance `{handle}`"));
    Handle::parse(handle).and_then(|handle| handle.id).ok_or_else(absent)
}

fn is_young(handle: &Handle) -> bool {
    time::now().saturating_sub(handle.created_at_ms) < SHOWN_WITHIN_MS
}

/// What EC2 shows of a handle's instance. One that is another owner's by now is not shown.
fn look(ec2: &Ec2<'_, '_>, handle: &Handle, id: &str) -> Result<Option<Seen>, Error> {
    match ec2.ask(&Form::new("DescribeInstances").set("InstanceId.1", id), seen) {
        Ok(found) => Ok(found.into_iter().find(|found| {
            // Tags may be shown later than their instance.
            found.id == id && (found.owner == handle.owner || found.owner.is_empty() && is_young(handle))
        })),
        Err(Fault::Refused(refusal)) if refusal.is_unknown_instance() => Ok(None),
        Err(fault) => Err(fault.into()),
    }
}

/// The instance behind a handle, or what its age says where EC2 does not know it.
fn find(ec2: &Ec2<'_, '_>, handle: &Handle) -> Result<Option<Instance>, Error> {
    let is_left = || Ok::<_, Error>(!leftover::find(ec2, &handle.owner, &[&handle.name])?.is_empty());
    let Some(id) = &handle.id else {
        return Ok(is_left()?.then(|| leftover::stopped(&handle.owner, &handle.name)));
    };
    match look(ec2, handle, id)? {
        Some(found) if found.owner.is_empty() => Ok(Some(handle.bare(found.state))),
        // EC2 shows it for an hour. It is there as long as anything is left of it.
        Some(found) if found.is_over() && !is_left()? => Ok(None),
        Some(found) => Ok(Some(found.into_instance())),
        None => Ok(is_young(handle).then(|| handle.bare(InstanceState::Creating))),
    }
}
