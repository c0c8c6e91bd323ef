//! What networks note of themselves while they are built.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Case, device};
use understudy_engine::sites::{Role, Sites};
use understudy_engine::weights::Probe;
use understudy_models::sd_unet::SdUnet;
use understudy_models::wan_transformer::WanTransformer;

fn paths(sites: &Sites, role: Role) -> Vec<&str> {
    sites.maps.iter().filter(|(_, site)| site.role == role).map(|(path, _)| path.as_str()).collect()
}

#[test]
fn a_transformer_notes_its_maps_attentions_and_states() {
    let config = Case::open("wan_transformer_a").config();
    let sites = Probe::sites(&device(), |weights| WanTransformer::new(weights, &config));
    assert_eq!(sites.maps.len(), 7 + 10 * config.num_layers);
    let dim = config.inner_dim();
    assert_eq!(sites.maps["blocks.1.ffn.net.0.proj"].shape, [config.ffn_dim, dim]);
    assert_eq!(sites.maps["patch_embedding"].kernel, Some(config.patch_size));
    assert!(sites.maps.iter().all(|(path, site)| site.kernel.is_none() || path == "patch_embedding"));
    assert_eq!(paths(&sites, Role::Other), ["proj_out"]);
    assert_eq!(paths(&sites, Role::Embedding).len(), 6);
    assert_eq!(paths(&sites, Role::FeedForward).len(), 2 * config.num_layers);
    let own: Vec<&str> = sites.attentions(Role::SelfAttention).collect();
    assert_eq!((own[0], own.len()), ("blocks.0.attn1", config.num_layers));
    assert_eq!(sites.attentions(Role::CrossAttention).last().unwrap(), {
        format!("blocks.{}.attn2", config.num_layers - 1)
    });
    let behind: Vec<&str> = sites.states.iter().map(|state| state.path.as_str()).collect();
    assert_eq!(behind[..3], ["blocks.0.attn2", "blocks.0", "blocks.1.attn2"]);
    assert_eq!(sites.states(Role::Other).last().unwrap().path, format!("blocks.{}", config.num_layers - 1));
    assert!(sites.states.iter().all(|state| state.channels == dim));
}

#[test]
fn a_unet_notes_them_in_the_order_it_runs_them() {
    let config = Case::open("sd_unet_a").config();
    let sites = Probe::sites(&device(), |weights| SdUnet::new(weights, &config));
    let own: Vec<&str> = sites.attentions(Role::SelfAttention).collect();
    let position = |start: &str| own.iter().position(|site| site.starts_with(start)).unwrap();
    assert!(position("down_blocks") < position("mid_block"));
    assert!(position("mid_block") < position("up_blocks"));
    let shortcut = sites.maps["down_blocks.1.resnets.0.conv_shortcut"];
    assert_eq!((shortcut.shape, shortcut.kernel, shortcut.role), ([12, 8], Some([1; 3]), Role::Other));
    assert_eq!(sites.maps["time_embedding.linear_1"].role, Role::Embedding);
}
