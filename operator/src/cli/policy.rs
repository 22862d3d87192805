//! Options of the administrator's limits on streams.

use clap::Args;
use operator_plan::validate::security::{PodSecurity, Policy};

/// Limits on what streams may ask for.
#[derive(Debug, Clone, Default, Args)]
pub struct PolicyArgs {
    /// Pod Security Standard that desktops may not exceed: restricted, baseline or privileged
    #[arg(long, env = "OPERATOR_POD_SECURITY", default_value = "restricted", value_parser = standard)]
    pub pod_security: PodSecurity,
    /// Allow spec.gpu.deviceNodes RenderAndCard, which gives desktops the card node
    #[arg(long, env = "OPERATOR_CARD_NODES", default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub card_nodes: bool,
    /// Annotation that Services and Ingresses of streams may get, PREFIX* for all with a prefix; can be repeated
    #[arg(long = "allowed-annotation", env = "OPERATOR_ALLOWED_ANNOTATIONS", value_delimiter = ',')]
    pub annotations: Vec<String>,
    /// Host that Ingresses of streams may have, *.DOMAIN for all below a domain, * for all; can be repeated
    #[arg(long = "allowed-host", env = "OPERATOR_ALLOWED_HOSTS", value_delimiter = ',', default_value = "*")]
    pub hosts: Vec<String>,
}

impl From<PolicyArgs> for Policy {
    fn from(args: PolicyArgs) -> Self {
        let PolicyArgs { pod_security, card_nodes, annotations, hosts } = args;
        Self { pod_security, card_nodes, annotations, ingress_hosts: hosts }
    }
}

fn standard(text: &str) -> Result<PodSecurity, String> {
    PodSecurity::ALL
        .into_iter()
        .find(|standard| standard.name() == text)
        .ok_or_else(|| "write restricted, baseline or privileged".to_owned())
}
