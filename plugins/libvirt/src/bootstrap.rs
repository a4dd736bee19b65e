//! How a machine becomes a runner: the user-data that cloud-init finds in the seed. All of it is secret.

use pacer_backend::{Bootstrap, Error};

/// Bytes of user-data; a start script with everything in it is a twentieth of that.
const USER_DATA_MAX: usize = 1024 * 1024;

/// The user-data.
pub fn user_data(bootstrap: &Bootstrap) -> Result<String, Error> {
    let text = match bootstrap {
        Bootstrap::CloudInit(document) => document.clone(),
        // cloud-init runs what begins like a script once, as root, at the end of the first boot.
        Bootstrap::StartScript(script) if script.starts_with("#!") => script.clone(),
        Bootstrap::StartScript(script) => format!("#!/bin/sh\n{script}"),
        Bootstrap::JitConfig(jit) => inline(jit)?,
    };
    if text.len() > USER_DATA_MAX {
        return Err(Error::invalid_request(format!("the bootstrap is longer than {USER_DATA_MAX} bytes")));
    }
    Ok(text)
}

/// A script for an image with a runner in the home of its user `runner`. The machine goes down whatever happens.
fn inline(jit: &str) -> Result<String, Error> {
    // GitHub's is base64; anything else could leave the quotes below.
    if jit.is_empty() || !jit.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=_-".contains(&b)) {
        return Err(Error::invalid_request("the just-in-time configuration is not base64"));
    }
    Ok(format!(
        "#!/bin/sh\n\
         trap 'poweroff || poweroff -f' EXIT\n\
         export ACTIONS_RUNNER_INPUT_JITCONFIG='{jit}' HOME=/home/runner USER=runner\n\
         cd /home/runner || exit 1\n\
         runuser -u runner -- ./run.sh\n"
    ))
}

#[cfg(test)]
mod tests {
    use pacer_backend::{Bootstrap, ErrorKind};

    use super::{USER_DATA_MAX, user_data};

    #[test]
    fn each_kind_becomes_what_cloud_init_takes() {
        let text = |bootstrap| user_data(&bootstrap).unwrap();
        assert_eq!(text(Bootstrap::CloudInit("#cloud-config\n{}".into())), "#cloud-config\n{}");
        assert_eq!(text(Bootstrap::StartScript("#!/bin/bash\nx".into())), "#!/bin/bash\nx");
        assert_eq!(text(Bootstrap::StartScript("x".into())), "#!/bin/sh\nx");
        let script = text(Bootstrap::JitConfig("eyJ+/_-=".into()));
        assert!(script.starts_with("#!/bin/sh\n") && script.contains("INPUT_JITCONFIG='eyJ+/_-='"), "{script}");
        assert!(!script.contains("run.sh eyJ"), "never on a command line");
    }

    #[test]
    fn what_would_leave_its_quotes_is_refused_and_not_repeated() {
        for jit in ["", "a'; reboot; '", "a\nb", "a b", "$(x)"] {
            let error = user_data(&Bootstrap::JitConfig(jit.into())).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidRequest);
            assert!(jit.is_empty() || !error.message.contains(jit));
        }
        let long = "x".repeat(USER_DATA_MAX + 1);
        assert!(user_data(&Bootstrap::CloudInit(long)).is_err());
    }
}
