"""The tests that each room is judged by: unit tests and oracles that run in one process, without Ray."""

from __future__ import annotations

ROOMS: dict[str, tuple[str, ...]] = {
    "tasks": (
        "oracles/test_augmentation.py", "unit/test_training_steps.py", "unit/test_classification_parts.py",
        "unit/test_training.py",
        "unit/test_training_parts.py", "unit/test_protocol_faults.py",
        "unit/test_detection_steps.py", "unit/test_detection.py", "unit/test_detection_training.py",
        "unit/test_hub.py", "unit/test_speed.py", "unit/test_task_parts.py", "unit/test_batches.py",
        "unit/test_resizing.py", "unit/test_orientation.py", "unit/test_training_choices.py",
        "unit/test_training_graphs.py", "unit/test_detection_parts.py",
    ),
    "scoring": (
        "unit/test_scoring_parts.py", "unit/test_sample_gradients.py", "unit/test_evidence.py",
        "unit/test_neighbours.py", "unit/test_several_needs.py", "unit/test_scoring_wholes.py",
        "oracles/test_criteria.py", "oracles/test_following.py", "oracles/test_selections.py",
    ),
    "selection": (
        "unit/test_selection_steps.py", "unit/test_library_steps.py", "unit/test_prune.py",
        "unit/test_prune_library.py", "unit/test_refusals.py", "oracles/test_reconstruct.py",
    ),
    "groups": (
        "unit/test_group.py", "unit/test_group_flow.py", "unit/test_group_split.py", "unit/test_cost.py",
        "unit/test_cost_attention.py", "unit/test_known_answers.py", "unit/test_layers.py", "unit/test_prune.py",
        "unit/test_groups_parts.py", "unit/test_group_rules.py",
        "unit/test_group_follow.py", "unit/test_whole.py", "unit/test_baked.py", "unit/test_refusals.py",
        "unit/test_inspect.py", "unit/test_models.py", "oracles/test_following.py", "oracles/test_reconstruct.py",
        "unit/test_shape_rules.py", "unit/test_product_rules.py", "unit/test_follow_parts.py",
        "unit/test_follow_trials.py", "unit/test_flow_parts.py", "unit/test_first_run.py", "unit/test_graph_parts.py",
        "unit/test_member_parts.py", "unit/test_proof_parts.py", "unit/test_surgery_parts.py",
        "unit/test_cost_parts.py", "unit/test_group_records.py",
    ),
    "pipeline": (
        "unit/test_artifact.py", "unit/test_damage.py", "unit/test_exclusive.py", "unit/test_measure.py",
        "unit/test_pipeline.py", "unit/test_protocol_faults.py", "unit/test_public.py", "unit/test_refit_cells.py",
        "unit/test_prune_command.py", "unit/test_identity_of_runs.py", "unit/test_outputs.py",
        "unit/test_inspect.py", "unit/test_own_photos.py", "unit/test_export_options.py", "unit/test_several_needs.py",
        "unit/test_pipeline_parts.py", "unit/test_pipeline_units.py", "unit/test_recalibration.py",
        "unit/test_image_sizes.py", "unit/test_pipeline_stages.py", "unit/test_pipeline_networks.py",
        "unit/test_pipeline_pieces.py",
        "unit/test_saved_networks.py", "unit/test_early_stop.py", "unit/test_pipeline_timings.py",
        "unit/test_sensitivity.py", "unit/test_shares.py", "unit/test_compared_outputs.py",
        "unit/test_cell_story.py", "unit/test_export_calls.py", "unit/test_machine_parts.py",
        "unit/test_pipeline_checks.py", "unit/test_probe_parts.py", "unit/test_sensitivity_parts.py",
        "unit/test_unit_ends.py", "unit/test_row_parts.py", "unit/test_token_parts.py", "unit/test_latency_parts.py",
        "unit/test_small_parts.py", "unit/test_small.py", "unit/test_tokens.py", "unit/test_targets.py",
        "unit/test_transferred_parts.py",
        "unit/test_trained_selections.py", "oracles/test_tokens.py",
    ),
    "results": (
        "unit/test_results_parts.py", "unit/test_result_damage.py", "unit/test_results_compaction.py",
        "unit/test_results_leaderboard.py", "unit/test_results_query.py", "unit/test_results_record.py",
        "unit/test_results_show.py", "unit/test_results_store.py", "unit/test_doctests.py",
        "unit/test_readme.py::test_generated_parts_are_those_of_the_files",
    ),
    "sweep": (
        "unit/test_spec.py", "unit/test_spec_mistakes.py", "unit/test_spec_schema.py", "unit/test_trial_ids.py",
        "unit/test_identity_of_data.py", "unit/test_own_modules.py", "unit/test_plan.py", "unit/test_doctests.py",
        "unit/test_spec_bounds.py", "unit/test_trial_siblings.py", "unit/test_sweeps.py", "unit/test_wording.py",
        "unit/test_attachments.py", "unit/test_typed.py", "unit/test_sweep_parts.py", "unit/test_environment.py",
        "unit/test_method_notation.py", "unit/test_recipe_axes.py", "unit/test_plan_resolution.py",
        "unit/test_sweep_axes.py", "unit/test_sweep_fields.py", "unit/test_sweep_modules.py",
        "unit/test_sweep_nodes.py", "unit/test_sweep_recipes.py", "unit/test_sweep_resolved.py",
        "unit/test_inclusions.py",
        "unit/test_sweep_sources.py", "unit/test_sweep_tables.py",
    ),
}  # fmt: skip
