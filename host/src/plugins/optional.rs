//! The optional operations that the fleet does not use, for those who put a component to the test.

use std::time::Duration;

use futures::FutureExt as _;

use super::{
    Host,
    call::Answer,
    convert,
    model::{BackendError, Instance},
};
use crate::routing::BackendName;

impl Host {
    /// Pauses a machine without losing it.
    pub async fn suspend(&self, backend: &BackendName, handle: &str, deadline: Duration) -> Result<(), BackendError> {
        let handle = handle.to_owned();
        self.invoke(backend, "suspend", None, Vec::new(), deadline, move |instance, store, context| {
            async move {
                let outcome = instance.pacer_backend_provisioner().call_suspend(store, &context, &handle).await?;
                Ok(Answer::of(outcome, Ok))
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
                Ok(Answer::of(outcome, |resumed| {
                    convert::instance(resumed, &|text, longest| store.data().redact(text, longest))
                }))
            }
            .boxed()
        })
        .await
    }
}
