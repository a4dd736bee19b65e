//! The optional operations that the fleet does not use, for those who put a component to the test.

use std::time::Duration;

use futures::FutureExt as _;

use super::{
    Host, convert,
    host::answer,
    model::{BackendError, Instance, Price},
};
use crate::routing::BackendName;

impl Host {
    /// Pauses a machine without losing it.
    pub async fn suspend(&self, backend: &BackendName, handle: &str, deadline: Duration) -> Result<(), BackendError> {
        let handle = handle.to_owned();
        self.invoke(backend, "suspend", None, Vec::new(), deadline, move |instance, store, context| {
            async move {
                let outcome = instance.pacer_backend_provisioner().call_suspend(store, &context, &handle).await?;
                Ok(answer(outcome, Ok))
            }
            .boxed()
        })
        .await
    }

    /// Lets a paused machine go on.
    pub async fn resume(
        &self,
        backend: &BackendName,
        handle: &str,
        deadline: Duration,
    ) -> Result<Instance, BackendError> {
        let handle = handle.to_owned();
        self.invoke(backend, "resume", None, Vec::new(), deadline, move |instance, store, context| {
            async move {
                let outcome = instance.pacer_backend_provisioner().call_resume(&mut *store, &context, &handle).await?;
                Ok(answer(outcome, |resumed| convert::instance(resumed, |text| store.data().redact(text))))
            }
            .boxed()
        })
        .await
    }

    /// What a machine of these pool settings would cost now.
    pub async fn quote(
        &self,
        backend: &BackendName,
        pool: &serde_json::Value,
        deadline: Duration,
    ) -> Result<Option<Price>, BackendError> {
        let pool = pool.to_string();
        self.invoke(backend, "quote", None, Vec::new(), deadline, move |instance, store, context| {
            async move {
                let outcome = instance.pacer_backend_provisioner().call_quote(store, &context, &pool).await?;
                let price = |price: super::bindings::pacer::backend::model::Price| Price {
                    micros_per_hour: price.micros_per_hour,
                    currency: price.currency,
                };
                Ok(answer(outcome, |quoted| Ok(quoted.map(price))))
            }
            .boxed()
        })
        .await
    }
}
