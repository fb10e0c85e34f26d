"""Tests the tests: puts one-line faults into the core, one at a time, and asks whether a test fails.

A test that cannot fail is a bug, and it does not show: the suite is green with it and without it. So here stand
mistakes that a careful person could make, each in one line and with the tests that must notice it. The script works
on a copy of the checkout; a fault that survives there is a property that nobody tests.

python -m tests.reliability.faults              all faults, one after the other; prints the table
    --only=NAME,NAME    those whose name holds one of these
    --table=FILE.md     the table as markdown, too
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent.parent
# A fault may make a loop endless; no test named here takes a tenth of this.
TIMEOUT_SECONDS = 900


class Fault(NamedTuple):
  """A mistake in one line of the core.

  Attributes:
    name: what is wrong then.
    file: where, from the root of the checkout.
    old: the text that is replaced; it occurs once in the file.
    new: the mistake.
    tests: what pytest is given to catch it, separated by blanks.
  """

  name: str
  file: str
  old: str
  new: str
  tests: str


# fmt: off
FAULTS = (
  # ---- what sees what, and the arithmetic of a layer
  Fault('the causal mask shows the next token', 'lmjax/ops/masks.py',
        'ahead_BTS <= 0', 'ahead_BTS <= 1',
        'tests/ops/test_ops.py::test_mask_equals_its_definition'),
  Fault('packed documents see those before them', 'lmjax/ops/masks.py',
        'q_segments_BT[:, :, None] == k_segments_BS', 'q_segments_BT[:, :, None] >= k_segments_BS',
        'tests/ops/test_ops.py::test_mask_equals_its_definition'),
  Fault('the sliding window is one token too wide', 'lmjax/ops/masks.py',
        'jnp.abs(ahead_BTS) < window if causal', 'jnp.abs(ahead_BTS) <= window if causal',
        'tests/ops/test_ops.py::test_mask_equals_its_definition'),
  Fault('attention with dropout mixes up the groups of heads', 'lmjax/ops/attention.py',
        "q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K)", "q_BTGRK = q_BTHK.reshape(B, T, H // G, G, K).swapaxes(2, 3)",
        'tests/reliability/test_faults_found.py::test_attention_with_dropout_is_attention_on_average_with_shared_heads'),
  Fault('the gradient of a kernel is transposed', 'lmjax/ops/matmul.py',
        "einsum('MD,MF->DF', x_MD, dy_MF)", "einsum('MD,MF->FD', x_MD, dy_MF).reshape(kernel_DF.shape)",
        'tests/ops/test_fast_paths.py::test_matmul_equals_that_of_jax'),
  Fault('rotary positions turn one half the wrong way', 'lmjax/ops/positions.py',
        'second * cosine + first * sine', 'second * cosine - first * sine',
        'tests/ops/test_ops.py::test_rotary_scores_depend_on_distance_alone'),
  Fault('the frequencies of rotary positions fall half as fast', 'lmjax/ops/positions.py',
        'dtype=jnp.float32) / half)', 'dtype=jnp.float32) / (2 * half))',
        'tests/reliability/test_faults_found.py::test_rotation_is_a_product_of_complex_numbers'),
  Fault('eps is added to the deviation, not to the variance', 'lmjax/ops/norms.py',
        'jax.lax.rsqrt(variance + eps)', '(1.0 / (jnp.sqrt(variance) + eps))',
        'tests/ops/test_ops.py::test_norms_equal_their_definitions'),
  Fault('dropout does not scale up what it keeps', 'lmjax/ops/dropout.py',
        'x / (1.0 - rate), 0.0).astype', 'x, 0.0).astype',
        'tests/reliability/test_faults_found.py::test_dropout_keeps_the_mean'),
  Fault('every row drops the same places', 'lmjax/ops/dropout.py',
        '_mixed(row ^ first)', '_mixed(first)',
        'tests/ops/test_ops.py::test_random_bits_look_random'),
  Fault('both halves of a block drop the same places', 'lmjax/models/layers.py',
        "added('mlp', attended_BTD, y_BTD, keys[2])", "added('mlp', attended_BTD, y_BTD, keys[1])",
        'tests/reliability/test_faults_found.py::test_a_key_of_dropout_is_used_once'),
  Fault('the KV cache forgets how long the prompt was', 'lmjax/models/transformer.py',
        'index=cache.index + x_BTD.shape[1])', 'index=cache.index + 1)',
        'tests/models/test_prefix.py::test_the_cache_keeps_scaled_keys'),
  Fault('an adapter is merged without its scale', 'lmjax/models/lora.py',
        'config.scale * product', 'product',
        'tests/models/test_lora.py::test_merge_adds_the_scaled_product_and_touches_nothing_else'),

  # ---- losses and gradients
  Fault('the cross-entropy of the last chunk alone', 'lmjax/ops/cross_entropy.py',
        'jax.tree.map(jnp.add, total, (sums, dkernel, dbias)), dx', '(sums, dkernel, dbias), dx',
        'tests/ops/test_ops.py::test_chunked_equals_plain_cross_entropy'),
  Fault('a mean where the loss is a sum', 'lmjax/ops/cross_entropy.py',
        'jnp.sum(loss_NBT * weights_NBT)', 'jnp.mean(loss_NBT * weights_NBT)',
        'tests/ops/test_ops.py::test_chunked_equals_plain_cross_entropy'),
  Fault('smoothed labels reach the padding of the vocabulary', 'lmjax/ops/cross_entropy.py',
        'spread = label_smoothing / vocab_size', 'spread = label_smoothing / V',
        'tests/ops/test_ops.py::test_chunked_equals_plain_cross_entropy'),
  Fault('the mean over a text counts its padding', 'lmjax/objectives/classification.py',
        "segments_BT.astype(x_BTD.dtype)", "jnp.ones_like(segments_BT, x_BTD.dtype)",
        'tests/tasks/test_fine_tuning.py::test_pool_equals_its_definition'),
  Fault('accumulation keeps the last part alone', 'lmjax/training/step.py',
        'jax.tree.map(jnp.add, total, gradient(params, rows, part_key))', 'gradient(params, rows, part_key)',
        'tests/training/test_invariance.py::test_accumulation_with_ragged_masks[4-causal_lm]'),
  Fault('the gradient is not divided by the weight', 'lmjax/training/step.py',
        'g / jnp.maximum(weight_sum, 1.0)', 'g',
        'tests/reliability/test_faults_found.py::test_the_gradient_is_that_of_the_mean_loss'),
  Fault('all parts of a batch share their dropout', 'lmjax/training/step.py',
        'jax.random.fold_in(key, number)', 'key',
        'tests/reliability/test_faults_found.py::test_every_part_of_a_batch_draws_its_own_dropout'),
  Fault('all steps share their dropout', 'lmjax/training/step.py',
        'jax.random.fold_in(key, state.step) if', 'key if',
        'tests/reliability/test_faults_found.py::test_every_step_draws_its_own_dropout'),
  Fault('a step with a loss of NaN moves the weights', 'lmjax/training/step.py',
        'jnp.where(good, new, old)', 'new',
        'tests/training/test_learning.py::test_a_step_without_a_finite_loss_changes_nothing'),
  Fault('the norm of the gradient adds norms, not squares', 'lmjax/training/step.py',
        'jnp.sqrt(sum(jnp.square(norm)', 'jnp.sqrt(sum(norm',
        'tests/reliability/test_faults_found.py::test_the_norm_that_is_clipped_is_of_the_whole_gradient'),

  # ---- the optimizer
  Fault('the warm-up ends a step late', 'lmjax/optim.py',
        'max(warmup - 1, 1)', 'max(warmup, 1)',
        'tests/test_optim.py::test_schedules_rise_then_fall'),
  Fault('weight decay where there should be none', 'lmjax/optim.py',
        'not paths.matches(path, config.no_decay)', 'paths.matches(path, config.no_decay)',
        'tests/test_optim.py::test_decay_acts_where_the_patterns_say'),
  Fault('clipping scales small gradients up', 'lmjax/optim.py',
        'jnp.minimum(1.0, limit', 'jnp.maximum(1.0, limit',
        'tests/test_optim.py::test_clip'),
  Fault('layer decay begins a layer too high', 'lmjax/optim.py',
        'layers - 1 - int(', 'layers - int(',
        'tests/test_optim.py::test_rate_shares'),

  # ---- data
  Fault('the first token of a document is predicted too', 'lmjax/data/batches/masking.py',
        '(segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)', 'segments[:, 1:] > 0',
        'tests/data/batches/test_masking.py::test_causal_targets_are_the_next_tokens_of_the_same_document'),
  Fault('an epoch has the masks of the one before', 'lmjax/data/batches/pipeline.py',
        "key_of('transform', self._seed, name, epoch)", "key_of('transform', self._seed, name)",
        'tests/reliability/test_faults_found.py::test_a_row_has_other_masks_with_another_seed_and_in_another_epoch'),
  Fault('every seed draws the same masks', 'lmjax/data/batches/pipeline.py',
        "key_of('transform', self._seed, name, epoch)", "key_of('transform', name, epoch)",
        'tests/reliability/test_faults_found.py::test_a_row_has_other_masks_with_another_seed_and_in_another_epoch'),
  Fault('every epoch has the order of the first', 'lmjax/data/batches/shuffle.py',
        "key_of('rows', self._seed, self._store.name, epoch, window)",
        "key_of('rows', self._seed, self._store.name, window)",
        'tests/data/batches/test_pipeline.py::test_each_row_comes_once_an_epoch_and_in_a_new_order_in_the_next'),
  Fault('a small corpus holds nothing out', 'lmjax/data/corpus/standing.py',
        'found.append(lowest)', 'pass',
        'tests/data/corpus/test_store.py::test_a_corpus_of_few_documents_still_holds_one_out'),
  Fault('checksums of a token shard are not compared', 'lmjax/data/corpus/shard.py',
        'if zlib.crc32(np.ascontiguousarray(array).data) != expected', 'if False',
        'tests/data/corpus/test_store.py::test_a_damaged_shard_is_never_read[flip-shards]'),
  Fault('a file is known by its name, not by its path', 'lmjax/data/sources/documents.py',
        'name=os.path.abspath(file.name)', 'name=os.path.basename(file.name)',
        'tests/data/corpus/test_store.py::test_files_that_are_alike_but_for_their_folder_are_others'),
  Fault('a condition on a field is not asked', 'lmjax/data/sources/conditions.py',
        'if all([condition.holds', 'if any([condition.holds',
        'tests/data/sources/test_conditions.py::test_every_kind_of_file_keeps_the_same'),
  Fault('sixteen bits for a vocabulary that needs more', 'lmjax/data/corpus/unit.py',
        '<= 1 << 16', '<= 1 << 17',
        'tests/data/corpus/test_store.py::test_ids_beyond_sixteen_bits_are_not_wrapped'),
  Fault('what is a copy but for its case is on the other side', 'lmjax/data/digests.py',
        'code in range(0x80)).lower()', 'code in range(0x80))',
        'tests/data/corpus/test_store.py::test_copies_in_other_case_and_spacing_are_on_the_same_side'),
  Fault('an answer ends a token late', 'lmjax/data/batches/windows.py',
        'last - low + second)', 'last - low + second + 1)',
        'tests/tasks/test_extractive_qa.py::test_misplaced_answers_are_counted_and_found'),

  # ---- checkpoints, resuming, handing over
  Fault('digests are not compared', 'lmjax/checkpoint/checkpoints.py',
        'if array != arrays[path]]', 'if path not in arrays]',
        'tests/checkpoint/test_checkpoints.py::test_a_flipped_byte_is_found_and_the_step_before_is_used'),
  Fault('a digest does not know where its elements stand', 'lmjax/checkpoint/digests.py',
        '_mix(place + salt)', '_mix(0 * place + salt)',
        'tests/checkpoint/test_checkpoints.py::test_digest_sees_every_change_and_no_mesh'),
  Fault('the oldest checkpoint is restored', 'lmjax/checkpoint/checkpoints.py',
        'in reversed(saved_steps(self.directory))', 'in saved_steps(self.directory)',
        'tests/checkpoint/test_checkpoints.py::test_round_trip_and_manifest'),
  Fault('a resumed run leaves out a batch', 'lmjax/train.py',
        'batches.iterate(first)', 'batches.iterate(first and first + 1)',
        'tests/hosts/test_preemption.py::test_the_first_signal_saves_and_the_run_continues_exactly[15]'),
  Fault('a host stops before the others know of it', 'lmjax/hosts/preemption.py',
        'return self._all_stop if self._several', 'return self._all_stop or self.signal if self._several',
        'tests/hosts/test_preemption.py::test_all_hosts_stop_with_the_batch_that_carries_a_flag'),
  Fault('several seeds are one seed', 'lmjax/train.py',
        'config.seed + i for i', 'config.seed for i',
        'tests/tasks/test_fine_tuning.py::test_several_seeds_make_a_run_each_and_a_summary'),
  Fault('a resumed run keeps lines of steps that it takes again', 'lmjax/workdir/run_files.py',
        "for line in self.lines() if line['step'] <= last_step and line['split'] != 'test'",
        "for line in self.lines() if line['split'] != 'test'",
        'tests/workdir/test_run_files.py::test_a_resumed_run_drops_later_lines_and_a_torn_tail'),
  Fault('a parameter that should be fresh is taken', 'lmjax/checkpoint/handoff.py',
        'fresh.append(path)', 'taken.append(path)',
        'tests/checkpoint/test_handoff.py::test_the_whole_plan_from_a_masked_lm_to_a_classifier'),
  Fault('another shape of the same rank is handed over', 'lmjax/checkpoint/handoff.py',
        'if shape == wanted', 'if len(shape) == len(wanted)',
        'tests/checkpoint/test_handoff.py::test_what_breaks_the_plan_is_refused'),

  Fault('every run begins with the weights of seed 0', 'lmjax/training/state.py',
        'jax.random.fold_in(jax.random.key(seed), 0)', 'jax.random.fold_in(jax.random.key(0), 0)',
        'tests/tasks/test_fine_tuning.py::test_several_seeds_make_a_run_each_and_a_summary'),
  Fault('the state of the optimizer lies whole on every device', 'lmjax/training/state.py',
        'like.shape == array.shape else everywhere', 'like.shape != array.shape else everywhere',
        'tests/training/test_invariance.py::test_state_is_sharded_from_birth'),
  Fault('a reader takes a mesh that is not that of the devices', 'lmjax/config.py',
        'if sharding.mesh_shape(mesh, count) is None:', 'if sharding.mesh_shape(mesh, count) is not None:',
        'tests/training/test_reopen.py::test_a_mesh_for_other_devices'),
  Fault('a hand-off takes the newest checkpoint, whichever is named', 'lmjax/checkpoint/locate.py',
        "step = steps[-1] if step == 'latest' else step", 'step = steps[-1]',
        'tests/checkpoint/test_handoff.py::test_a_step_by_number_by_path_and_the_latest'),

  # ---- configs
  Fault('the rules of a section are not asked', 'lmjax/schema/validate.py',
        "getattr(section, 'problems', tuple)()", "getattr(section, 'problem', tuple)()",
        'tests/schema/test_schema.py::test_all_mistakes_are_reported_together_in_tree_order'),
  Fault('the rules of a task are not asked', 'lmjax/config.py',
        'yield from TASKS[self.task].rules(self)', 'yield from ()',
        'tests/schema/test_knobs.py::test_refused'),
  Fault('a config takes the common.py of the current folder', 'lmjax/schema/command_line.py',
        "config.parent / f'{COMMON}.py', ModuleType", "Path() / f'{COMMON}.py', ModuleType",
        'tests/schema/test_common_file.py::test_it_is_found_from_any_working_directory'),

  # ---- decoding and scores
  Fault('generated tokens stand a position too early', 'lmjax/models/decode.py',
        'made_BN, positions_BP[:, -1:] + 1)', 'made_BN, positions_BP[:, -1:])',
        'tests/models/test_decode.py::test_greedy_continues_each_prompt_whatever_its_padding'),
  Fault('every token is drawn with the same key', 'lmjax/models/decode.py',
        'jax.random.fold_in(key, n)', 'key',
        'tests/reliability/test_faults_found.py::test_every_token_is_drawn_again'),
  Fault('top-p leaves out the token that reaches p', 'lmjax/models/decode.py',
        '(before_BV < top_p)', '(before_BV + probability_BV < top_p)',
        'tests/models/test_decode.py::test_sampling_draws_from_the_softmax'),
  Fault('a beam sees the tokens of its neighbour', 'lmjax/models/decode.py',
        '(places_BKN[..., None] == jnp.arange(beams))', '(places_BKN[..., None] >= jnp.arange(beams))',
        'tests/models/test_decode.py::test_narrow_beams_follow_the_definition'),
  Fault('tokens in the cache forget where they stand', 'lmjax/models/kv_cache.py',
        '(self.positions, positions_BT)', '(self.positions, segments_BT)',
        'tests/models/test_transformer.py::test_cache_equals_the_full_pass'),
  Fault('a finished beam is taken to be a token longer', 'lmjax/models/decode.py',
        '/ (n + 1.0) ** length_penalty', '/ (n + 2.0) ** length_penalty',
        'tests/models/test_decode.py::test_narrow_beams_follow_the_definition'),
  Fault('answers are compared without the a, an, the in words', 'lmjax/scoring/squad.py',
        r"r'\b(a|an|the)\b'", "r'(a|an|the)'",
        'tests/scoring/test_scoring.py::test_squad_cases_worked_by_hand'),
  Fault('ROUGE without stemming', 'lmjax/scoring/generation.py',
        '[self._stem(word) if', '[word if',
        'tests/scoring/test_scoring.py::test_rouge_worked_by_hand'),

  # ---- real files
  Fault('a summary that was cut is followed by the end', 'lmjax/tasks/summarization.py',
        '*(() if cut_summary else end)', '*end',
        'tests/tasks/test_summarization.py::test_no_end_is_taught_where_a_summary_was_cut'),
  Fault('unknown tokens stand for their text', 'lmjax/data/tokens/tokenizer.py',
        'if index != self.unk]', 'if index is not None]',
        'tests/data/tokens/test_tokenizer.py::test_what_it_does_not_know_is_counted_in_bytes'),
  Fault('any share of unknown text is taken', 'lmjax/data/counts.py',
        'if unknown > limit * n_bytes', 'if unknown > n_bytes',
        'tests/data/corpus/test_store.py::test_text_that_the_tokenizer_does_not_know_is_counted_and_refused'),
  Fault('a tokenizer that makes text lower case gives it back', 'lmjax/data/tokens/tokenizer.py',
        "return self.is_lossless and self.decode(self.encode(_PROBE)).removeprefix(' ') == _PROBE",
        'return self.is_lossless',
        'tests/data/tokens/test_tokenizer.py::test_who_gives_bytes_back'),
  Fault('an empty answer is an answer', 'lmjax/data/labelled/values.py',
        'if text.strip():', 'if text is not None:',
        'tests/tasks/test_extractive_qa.py::test_an_empty_answer_is_none'),
  Fault('a window has an answer that begins in it and ends after it', 'lmjax/tasks/extractive_qa.py',
        'if low <= first and last < high)', 'if low <= first < high)',
        'tests/tasks/test_extractive_qa.py::test_a_window_has_the_first_right_answer_that_it_holds'),
  Fault('a question is left in whose answer is too long', 'lmjax/tasks/extractive_qa.py',
        'if right and not may_be_given:', 'if right and not may_be_given and not too_long:',
        'tests/tasks/test_extractive_qa.py::test_questions_whose_answers_are_too_long_are_left_out_and_counted'),
  Fault('ROUGE sees no marks', 'lmjax/scoring/generation.py',
        "if kind[0] == 'M' and here:", "if kind[0] == 'N' and here:",
        'tests/scoring/test_scoring.py::test_rouge_counts_words_of_other_scripts'),
  Fault('a quote that is never closed swallows rows', 'lmjax/data/sources/tables.py',
        'dict(strict=True)', 'dict(strict=False)',
        'tests/data/test_records.py::test_a_broken_file_is_named'),
  Fault('all of a rare class is held out', 'lmjax/data/labelled/splits.py',
        'min(int(share * count + 0.5), count - 1)', 'min(int(share * count + 0.5), count)',
        'tests/data/test_counts.py::test_each_class_is_held_out_alike'),
  Fault('a carriage return alone ends no row of a table', 'lmjax/data/labelled/plain.py',
        " or data.count(b'\\r') != data.count(b'\\r\\n')", '',
        'tests/data/labelled/test_plain.py::test_any_file_gives_what_the_csv_module_does'),
  Fault('features that another tokenizer made are taken', 'lmjax/tasks/fine_tuning.py',
        'given = [self.tokenizer.hash, ', 'given = [',
        'tests/data/labelled/test_kept.py::test_another_tokenizer_or_file_is_another_start'),
  Fault('damaged features are taken', 'lmjax/data/labelled/kept.py',
        ' or zlib.crc32(part.data) != crc', '',
        'tests/data/labelled/test_kept.py::test_any_byte_that_changes_is_noticed'),
  Fault('two examples with one digest are one', 'lmjax/data/labelled/splits.py',
        '[key in seen for key in keys(table.some(is_in))]', 'True',
        'tests/data/labelled/test_table.py::test_examples_with_one_digest_are_told_apart'),
  Fault('numbers are predicted without their mean', 'lmjax/tasks/regression.py',
        'return float(output) * deviation + mean', 'return float(output) * deviation',
        'tests/tasks/test_targets.py::test_numbers_are_learned_in_their_own_units'),
  Fault('the threshold of labels cuts between equal probabilities', 'lmjax/scoring/multi_label.py',
        'np.where(ends, values, -1.0)', 'np.where(True, values, -1.0)',
        'tests/tasks/test_targets.py::test_the_threshold_is_the_best_there_is'),
  Fault('ranks are not ranked', 'lmjax/scoring/regression.py',
        "('spearman', stats.spearmanr)", "('spearman', stats.pearsonr)",
        'tests/tasks/test_targets.py::test_correlations_are_those_of_their_definitions'),
  Fault('each part of a fused tensor is the first', 'lmjax/hf/table.py',
        'sum(self.sizes[: self.number])', '0',
        'tests/hf/test_import.py::test_the_table_is_the_same_both_ways'),
  Fault('a scaling of rotary positions is left out', 'lmjax/hf/config.py',
        'found |= _scaling(file, whole)', 'pass',
        'tests/hf/test_import.py::test_the_outputs_are_those_of_transformers'),
  Fault('positions of a table begin at its first row', 'lmjax/hf/encoders.py',
        'fixed=_ENCODER | dict(position_offset=2),', 'fixed=_ENCODER,',
        'tests/hf/test_import.py::test_the_outputs_are_those_of_transformers'),
  Fault('a tied table that stands twice is not compared', 'lmjax/hf/weights.py',
        'if copy.theirs in source.weights.tensors:', 'if False:',
        'tests/hf/test_import.py::test_a_tied_table_that_stands_twice_must_be_one'),
  Fault('tensors that nobody uses are skipped', 'lmjax/hf/source.py',
        "self._refuse('holds a tensor that its family has not,', sorted(unknown))", 'pass',
        'tests/hf/test_broken.py::test_tensors_that_are_missing_or_unknown'),
  Fault('a tokenizer with two separators gets one', 'lmjax/data/tokens/published.py',
        "(sep,) * (1 if processor['type'] == 'BertProcessing' else 2)", '(sep,)',
        'tests/hf/test_import.py::test_frames_and_roles_are_those_of_the_files'),
  Fault('another model in the folder is taken for the start', 'lmjax/training/initialize.py',
        "if 'digest' in hand_off and digest_of(first, hand_off['taken']) != hand_off['digest']:", 'if False:',
        'tests/hf/test_import.py::test_what_has_changed_since_is_not_taken_for_the_start'),
)
# fmt: on


def change(folder: pathlib.Path, fault: Fault) -> str:
  """The text of a fault's file with the fault in it; checks that it is one fault, and Python.

  Raises:
    ValueError: `old` does not occur once. SyntaxError: what `new` makes of it is no program.
  """
  text = (folder / fault.file).read_text(encoding='utf-8')
  if text.count(fault.old) != 1:
    raise ValueError(f'{fault.name}: {fault.old!r} occurs {text.count(fault.old)} times in {fault.file}; must be once')
  changed = text.replace(fault.old, fault.new)
  compile(changed, fault.file, 'exec')
  return changed


def copy_checkout(folder: pathlib.Path) -> None:
  """Copies what git tracks, and new files that it does not ignore."""
  listed = ['git', '-C', str(ROOT), 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
  for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split('\0'):
    if name and (ROOT / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      (folder / name).write_bytes((ROOT / name).read_bytes())


def run_tests(folder: pathlib.Path, tests: list[str]) -> tuple[int, str]:
  """pytest's exit code and output, with the lmjax of `folder`, not an installed one."""
  environment = os.environ | {
    'PYTHONPATH': str(folder),
    'PYTHONDONTWRITEBYTECODE': '1',  # a fault as long as what it replaces must not meet the other's bytecode
    'JAX_COMPILATION_CACHE_DIR': str(folder.parent / 'xla'),  # what a fault leaves alone is compiled once
  }
  checked = f'import lmjax, pytest, sys; assert lmjax.__file__.startswith({str(folder)!r}), lmjax.__file__; '
  checked += 'sys.exit(pytest.main(sys.argv[1:]))'
  options = ['-x', '--tb=line', '-p', 'no:cacheprovider', f'--basetemp={folder.parent / "tmp"}']
  command = [sys.executable, '-c', checked, *options, *tests]
  try:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
  except subprocess.TimeoutExpired:
    return -1, 'no end'
  return done.returncode, done.stdout + done.stderr


def attempt(folder: pathlib.Path, fault: Fault) -> str | None:
  """The test that catches a fault, or None: the tests pass, none ran, or they did not end."""
  changed, file = change(folder, fault), folder / fault.file
  before = file.read_bytes()
  file.write_text(changed, encoding='utf-8')
  try:
    code, output = run_tests(folder, fault.tests.split())
  finally:
    file.write_bytes(before)
  if code not in (1, 2):  # 2: a test file could not be read, with a fault that is Python
    return None
  found = re.search(r'^(?:FAILED|ERROR) (\S+)', output, flags=re.MULTILINE)
  return found[1] if found else None


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns 1 where a fault survives, or the tests fail without one."""
  parser = argparse.ArgumentParser(prog='python -m tests.reliability.faults', description=__doc__.partition('\n')[0])
  parser.add_argument('--only', metavar='NAME,NAME', help='faults whose name holds one of these')
  parser.add_argument('--table', metavar='FILE.md', type=pathlib.Path, help='the table as markdown, too')
  flags = parser.parse_args(argv)
  wanted = [''] if flags.only is None else flags.only.split(',')
  chosen = [fault for fault in FAULTS if any(part in fault.name for part in wanted)]
  if not chosen:
    parser.error(f'--only={flags.only}: no fault has such a name')
  rows = []
  with tempfile.TemporaryDirectory(prefix='lmjax-faults-') as temporary:
    folder = pathlib.Path(temporary).resolve() / 'checkout'
    copy_checkout(folder)
    began = time.monotonic()
    code, output = run_tests(folder, sorted({test for fault in chosen for test in fault.tests.split()}))
    if code or re.search(r'\d+ skipped', output):
      print(f'{output}\nwithout a fault all tests must pass, and none be skipped; pytest: {code}', file=sys.stderr)
      return 1
    print(f'without a fault all tests pass, in {time.monotonic() - began:.0f} s', flush=True)
    for fault in chosen:
      began = time.monotonic()
      test = attempt(folder, fault)
      rows.append((fault.name, fault.file, test or '(survived)', f'{time.monotonic() - began:.0f}'))
      print(f'{fault.name:60} {fault.file:36} {rows[-1][2]}  {rows[-1][3]} s', flush=True)
  caught = sum(test != '(survived)' for _, _, test, _ in rows)
  print(f'{caught} of {len(rows)} caught')
  if flags.table:
    lines = ['| fault | file | caught by | seconds |', '|---|---|---|---|', *(f'| {" | ".join(row)} |' for row in rows)]
    flags.table.write_text('\n'.join([*lines, '', f'{caught} of {len(rows)} caught']) + '\n', encoding='utf-8')
  return int(caught < len(rows))


if __name__ == '__main__':
  sys.exit(main())
