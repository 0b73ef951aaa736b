"""Which test provokes which check: made by `docs/build.py --measure`, do not edit."""

from __future__ import annotations

# (call, place of the check in its row) -> tests, the most specific first
COVERED: dict[tuple[str, int], tuple[str, ...]] = {
    ("add_secret", 0): (
        "tests/conformance/test_s390_secrets.py::test_a_locked_store_is_read_and_never_changed",
    ),
    ("add_secret", 1): (
        "tests/conformance/test_s390_secrets.py::test_a_request_outside_the_guest_is_not_accessible",
    ),
    ("add_secret", 2): (
        "tests/conformance/test_s390_guest_matrix.py::test_a_block_that_the_host_does_not_provide_is_asked_for_and_the_call_done_then",
        "tests/conformance/test_s390_guest_matrix.py::test_no_guest_call_leaves_the_guest",
        "tests/conformance/test_s390_secrets.py::test_no_byte_of_a_request_can_be_changed",
    ),
    ("add_secret", 3): ("tests/conformance/test_s390_secrets.py::test_each_mistake_has_its_code",),
    ("add_secret", 4): (
        "tests/conformance/test_s390_secrets.py::test_no_byte_of_a_request_can_be_changed",
        "tests/conformance/test_s390_secrets.py::test_each_mistake_has_its_code",
    ),
    ("add_secret", 5): (
        "tests/conformance/test_s390_secrets.py::test_no_byte_of_a_request_can_be_changed",
        "tests/conformance/test_s390_secrets.py::test_each_mistake_has_its_code",
    ),
    ("add_secret", 6): (
        "tests/conformance/test_s390_secrets.py::test_a_request_for_another_machine_does_not_open",
        "tests/conformance/test_s390_secrets.py::test_no_byte_of_a_request_can_be_changed",
        "tests/conformance/test_s390_secrets.py::test_each_mistake_has_its_code",
    ),
    ("add_secret", 7): (
        "tests/conformance/test_s390_secrets.py::test_other_kinds_are_not_supported",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("add_secret", 8): ("tests/conformance/test_s390_secrets.py::test_a_kind_has_its_length",),
    ("add_secret", 9): (
        "tests/conformance/test_s390_secrets.py::test_a_store_fills_up_and_its_list_has_pages",
    ),
    ("add_secret", 10): (
        "tests/conformance/test_s390_secrets.py::test_a_request_can_be_bound_to_a_configuration",
        "tests/conformance/test_s390_secrets.py::test_a_request_is_bound_to_an_image",
        "tests/conformance/test_s390_secrets.py::test_all_requests_share_one_extension_secret",
    ),
    ("add_secret", 11): (
        "tests/conformance/test_s390_secrets.py::test_no_secret_is_taken_while_a_dump_is_active",
    ),
    ("attest", 0): (
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
        "tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",
    ),
    ("attest", 1): (
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
        "tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("attest", 2): (
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
        "tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",
    ),
    ("attest", 3): (
        "tests/conformance/test_s390_guest_matrix.py::test_a_block_that_the_host_does_not_provide_is_asked_for_and_the_call_done_then",
        "tests/conformance/test_s390_guest_matrix.py::test_no_guest_call_leaves_the_guest",
        "tests/conformance/test_s390_attestation.py::test_no_byte_of_a_request_can_be_changed",
    ),
    ("attest", 4): (
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
        "tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",
    ),
    ("attest", 5): (
        "tests/conformance/test_s390_attestation.py::test_requests_of_the_wrong_shape",
        "tests/conformance/test_s390_attestation.py::test_no_byte_of_a_request_can_be_changed",
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
    ),
    ("attest", 6): (
        "tests/conformance/test_s390_attestation.py::test_requests_of_the_wrong_shape",
        "tests/conformance/test_s390_attestation.py::test_no_byte_of_a_request_can_be_changed",
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
    ),
    ("attest", 7): (
        "tests/conformance/test_s390_attestation.py::test_requests_of_the_wrong_shape",
        "tests/conformance/test_s390_attestation.py::test_no_byte_of_a_request_can_be_changed",
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
    ),
    ("attest", 8): (
        "tests/conformance/test_s390_attestation.py::test_no_byte_of_a_request_can_be_changed",
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
        "tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",
    ),
    ("attest", 9): (
        "tests/conformance/test_s390_attestation.py::test_what_the_unit_tests_do_without_cryptography",
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
        "tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",
    ),
    ("attest", 10): (
        "tests/conformance/test_s390_attestation.py::test_what_the_unit_tests_do_without_cryptography",
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
        "tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",
    ),
    ("attest", 11): (
        "tests/conformance/test_s390_attestation.py::test_a_request_for_another_machine_does_not_open",
        "tests/conformance/test_s390_attestation.py::test_the_seed_makes_the_machines_key",
        "tests/conformance/test_s390_attestation.py::test_what_the_unit_tests_do_without_cryptography",
    ),
    ("attest", 12): (
        "tests/conformance/test_s390_attestation.py::test_of_two_mistakes_the_earlier_is_named",
        "tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",
    ),
    ("attest", 13): ("tests/conformance/test_s390_attestation.py::test_each_mistake_has_its_code",),
    ("convert_from_secure", 0): (
        "tests/conformance/test_s390_pages.py::test_pages_that_are_donated_or_outside_memory_stay_what_they_are",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("convert_from_secure", 1): (
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("convert_from_secure", 2): (
        "tests/conformance/test_s390_pages.py::test_pages_that_are_donated_or_outside_memory_stay_what_they_are",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("convert_from_secure", 3): (
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("convert_to_secure", 0): (
        "tests/conformance/test_s390_pages.py::test_import_behind_the_guests_storage_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("convert_to_secure", 1): (
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("convert_to_secure", 2): (
        "tests/conformance/test_s390_pages.py::test_import_of_a_page_that_is_not_mapped_can_be_repeated",
        "tests/conformance/test_s390_pages.py::test_import_of_a_page_that_is_not_writable_can_be_repeated",
        "tests/conformance/test_s390_park.py::test_a_parked_call_that_is_refused_says_so_when_it_is_resumed",
    ),
    ("convert_to_secure", 3): (
        "tests/conformance/test_s390_page_table.py::test_a_pinned_page_does_not_change_hands",
        "tests/conformance/test_s390_pages.py::test_import_of_another_guests_page_is_refused",
        "tests/conformance/test_s390_pages.py::test_import_of_donated_storage_is_refused",
    ),
    ("convert_to_secure", 4): (
        "tests/conformance/test_s390_page_table.py::test_what_the_guest_finds_after_an_import",
        "tests/conformance/test_s390_pages.py::test_import_of_a_page_that_is_secure_already_leaves_it_as_it_is",
        "tests/conformance/test_s390_keyboard.py::test_counts_name_what_was_issued_and_received",
    ),
    ("convert_to_secure", 5): (
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("convert_to_secure", 6): (
        "tests/conformance/test_s390_pages.py::test_a_modified_ciphertext_is_not_imported",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("cpu_reset", 0): ("tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",),
    ("cpu_reset_clear", 0): (
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("cpu_reset_initial", 0): (
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("cpu_set_state", 0): (
        "tests/conformance/test_s390_image.py::test_a_guest_that_is_not_verified_does_not_start",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("cpu_set_state", 1): ("tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",),
    ("create_config", 0): (
        "tests/conformance/test_s390_configuration.py::test_a_home_space_that_is_a_real_space_is_an_rc",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("create_config", 1): (
        "tests/conformance/test_s390_configuration.py::test_variable_storage_that_is_not_mapped_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("create_config", 2): (
        "tests/conformance/test_s390_configuration.py::test_variable_storage_outside_memory_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("create_config", 3): (
        "tests/conformance/test_s390_configuration.py::test_an_origin_above_the_largest_guest_address_is_refused",
        "tests/conformance/test_s390_configuration.py::test_the_first_wrong_thing_in_ascending_order_is_reported",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_config", 4): (
        "tests/conformance/test_s390_configuration.py::test_an_end_above_the_largest_guest_address_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("create_config", 5): (
        "tests/conformance/test_s390_configuration.py::test_there_are_as_many_configurations_as_the_query_says",
        "tests/conformance/test_s390_siblings.py::test_every_host_has_all_the_configurations_of_its_profile",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_config", 6): (
        "tests/conformance/test_s390_configuration.py::test_an_asce_that_is_not_private_or_real_is_invalid",
        "tests/conformance/test_s390_configuration.py::test_the_first_wrong_thing_in_ascending_order_is_reported",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_config", 7): (
        "tests/conformance/test_s390_configuration.py::test_an_asce_serves_one_configuration",
        "tests/conformance/test_s390_configuration.py::test_the_same_block_twice_is_refused_the_second_time",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_config", 8): (
        "tests/conformance/test_s390_configuration.py::test_base_storage_outside_memory_is_refused",
        "tests/conformance/test_s390_configuration.py::test_base_storage_that_ends_outside_memory_is_refused",
        "tests/conformance/test_s390_configuration.py::test_storage_that_is_not_the_hosts_any_more_cannot_be_donated",
    ),
    ("create_config", 9): (
        "tests/conformance/test_s390_configuration.py::test_a_lowcore_is_where_the_prefix_of_a_cpu_is",
        "tests/conformance/test_s390_configuration.py::test_base_storage_with_the_lowcore_of_a_cpu_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_config", 10): (
        "tests/conformance/test_s390_configuration.py::test_base_and_variable_storage_are_two_areas",
        "tests/conformance/test_s390_configuration.py::test_storage_that_is_not_the_hosts_any_more_cannot_be_donated",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_config", 11): (
        "tests/conformance/test_s390_configuration.py::test_an_sca_at_zero_is_refused",
        "tests/conformance/test_s390_configuration.py::test_the_first_wrong_thing_in_ascending_order_is_reported",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("create_config", 12): (
        "tests/conformance/test_s390_configuration.py::test_an_sca_outside_memory_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("create_cpu", 0): (
        "tests/conformance/test_s390_configuration.py::test_a_number_above_the_maximum_is_refused",
        "tests/conformance/test_s390_configuration.py::test_cpu_codes_are_reported_in_ascending_order",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_cpu", 1): (
        "tests/conformance/test_s390_configuration.py::test_a_number_is_defined_once_in_a_configuration",
        "tests/conformance/test_s390_configuration.py::test_cpu_codes_are_reported_in_ascending_order",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_cpu", 2): (
        "tests/conformance/test_s390_configuration.py::test_cpu_storage_outside_memory_is_refused",
        "tests/conformance/test_s390_configuration.py::test_cpu_storage_that_is_not_the_hosts_any_more_is_refused",
        "tests/conformance/test_s390_configuration.py::test_cpu_codes_are_reported_in_ascending_order",
    ),
    ("create_cpu", 3): (
        "tests/conformance/test_s390_configuration.py::test_cpu_storage_in_a_lowcore_is_refused",
        "tests/conformance/test_s390_configuration.py::test_cpu_codes_are_reported_in_ascending_order",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("create_cpu", 4): (
        "tests/conformance/test_s390_configuration.py::test_an_sie_block_outside_memory_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("destroy_config", 0): (
        "tests/conformance/test_s390_configuration.py::test_a_configuration_with_cpus_is_not_destroyed",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("destroy_config_fast", 0): (
        "tests/conformance/test_s390_destroy_fast.py::test_cpus_have_to_be_destroyed_before",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("destroy_cpu", 0): ("tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",),
    ("destroy_storage", 0): (
        "tests/conformance/test_s390_pages.py::test_pages_that_are_donated_or_outside_memory_stay_what_they_are",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("destroy_storage", 1): (
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("destroy_storage", 2): (
        "tests/conformance/test_s390_pages.py::test_pages_that_are_donated_or_outside_memory_stay_what_they_are",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("destroy_storage", 3): (
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_complete", 0): (
        "tests/conformance/test_s390_dump.py::test_areas_are_in_the_home_space",
        "tests/conformance/test_s390_dump.py::test_an_area_that_the_host_cannot_store_to_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_complete", 1): (
        "tests/conformance/test_s390_dump.py::test_a_refused_call_is_an_error_and_no_progress",
        "tests/conformance/test_s390_dump.py::test_nothing_is_given_before_a_dump_begins",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_cpu", 0): (
        "tests/conformance/test_s390_dump.py::test_a_cpu_in_the_guest_goes_on_and_is_dumped_when_it_has_left",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_cpu", 1): (
        "tests/conformance/test_s390_dump.py::test_an_area_that_the_host_cannot_store_to_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("dump_cpu", 2): (
        "tests/conformance/test_s390_dump.py::test_no_cpu_is_given_before_a_dump_begins_or_after_its_end",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_init", 0): (
        "tests/conformance/test_s390_dump.py::test_a_configuration_without_an_image_cannot_be_dumped",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_init", 1): (
        "tests/conformance/test_s390_dump.py::test_no_other_flag_allows_it",
        "tests/conformance/test_s390_dump.py::test_the_owner_has_to_allow_it",
        "tests/conformance/test_s390_secrets.py::test_a_request_can_take_the_permission_to_dump",
    ),
    ("dump_init", 2): (
        "tests/conformance/test_s390_dump.py::test_there_is_one_dump_at_a_time",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("dump_storage_state", 0): (
        "tests/conformance/test_s390_dump.py::test_an_area_that_the_host_cannot_store_to_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_storage_state", 1): (
        "tests/conformance/test_s390_dump.py::test_nothing_is_given_before_a_dump_begins",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_storage_state", 2): (
        "tests/conformance/test_s390_dump.py::test_the_address_has_to_be_that_of_a_megabyte_of_the_guest",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("dump_storage_state", 3): (
        "tests/conformance/test_s390_dump.py::test_the_address_has_to_be_that_of_a_megabyte_of_the_guest",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("init", 0): (
        "tests/conformance/test_s390_query_init.py::test_init_refuses_a_second_time",
        "tests/conformance/test_s390_query_init.py::test_init_says_that_it_was_done_before_anything_else_of_its_own",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("init", 1): (
        "tests/conformance/test_s390_query_init.py::test_init_counts_cpus_before_it_looks_at_the_storage",
        "tests/conformance/test_s390_query_init.py::test_init_refuses_while_another_cpu_runs",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("init", 2): (
        "tests/conformance/test_s390_query_init.py::test_init_looks_at_the_length_before_the_place",
        "tests/conformance/test_s390_query_init.py::test_init_wants_exactly_the_length_that_the_query_reports",
        "tests/conformance/test_s390_query_init.py::test_every_call_is_executed_or_says_why",
    ),
    ("init", 3): (
        "tests/conformance/test_s390_query_init.py::test_init_refuses_storage_outside_memory",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("init", 4): (
        "tests/conformance/test_s390_query_init.py::test_init_refuses_storage_that_ends_outside_memory",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("init", 5): (
        "tests/conformance/test_s390_query_init.py::test_init_refuses_storage_below_2_gib",
        "tests/conformance/test_s390_query_init.py::test_a_refused_init_leaves_the_ultravisor_uninitialised",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("list_secrets", 0): (
        "tests/conformance/test_s390_secrets.py::test_a_list_outside_the_guest_is_not_accessible",
    ),
    ("list_secrets", 1): (
        "tests/conformance/test_s390_secrets.py::test_a_store_fills_up_and_its_list_has_pages",
    ),
    ("lock_secrets", 0): (
        "tests/conformance/test_s390_secrets.py::test_a_locked_store_is_read_and_never_changed",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("pin", 0): (
        "tests/conformance/test_s390_pages.py::test_pages_that_are_donated_or_outside_memory_stay_what_they_are",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("pin", 1): (
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("pin", 2): (
        "tests/conformance/test_s390_pages.py::test_pages_that_are_donated_or_outside_memory_stay_what_they_are",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("pin", 3): (
        "tests/conformance/test_s390_page_table.py::test_pins_end_with_their_guest",
        "tests/conformance/test_s390_pages.py::test_a_private_page_cannot_be_pinned",
        "tests/conformance/test_s390_siblings.py::test_a_siblings_page_is_not_reached_by_its_address",
    ),
    ("prepare_reset", 0): (
        "tests/conformance/test_s390_entry.py::test_the_reset_chain_has_an_order",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("query", 0): (
        "tests/conformance/test_s390_guest_matrix.py::test_a_guest_call_of_the_wrong_length_is_refused",
        "tests/conformance/test_s390_guest_matrix.py::test_what_a_guest_call_leaves_in_register_1_means_nothing",
        "tests/conformance/test_s390_query_init.py::test_a_query_shorter_than_the_minimum_has_the_wrong_length",
    ),
    ("query", 1): (
        "tests/conformance/test_s390_guest_matrix.py::test_a_guest_query_that_knows_less_gets_what_it_has_room_for",
        "tests/conformance/test_s390_query_init.py::test_a_query_that_knows_less_gets_what_it_has_room_for",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("retrieve_secret", 0): (
        "tests/conformance/test_s390_secrets.py::test_each_guest_has_its_own",
        "tests/conformance/test_s390_guest_matrix.py::test_a_block_that_the_host_does_not_provide_is_asked_for_and_the_call_done_then",
        "tests/conformance/test_s390_guest_matrix.py::test_no_guest_call_leaves_the_guest",
    ),
    ("retrieve_secret", 1): (
        "tests/conformance/test_s390_secrets.py::test_what_cannot_be_retrieved",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("retrieve_secret", 2): (
        "tests/conformance/test_s390_secrets.py::test_what_cannot_be_retrieved",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("retrieve_secret", 3): ("tests/conformance/test_s390_secrets.py::test_what_cannot_be_retrieved",),
    ("retrieve_secret", 4): ("tests/conformance/test_s390_secrets.py::test_what_cannot_be_retrieved",),
    ("set_params", 0): (
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("set_params", 1): (
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("set_params", 2): (
        "tests/conformance/test_s390_image.py::test_a_header_in_storage_that_is_not_the_hosts_is_refused",
        "tests/conformance/test_s390_image.py::test_a_header_that_is_not_mapped_is_an_rc_and_no_exception",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("set_params", 3): (
        "tests/conformance/test_s390_image.py::test_an_unsupported_version_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("set_params", 4): (
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("set_params", 5): (
        "tests/conformance/test_s390_image.py::test_an_unsupported_plaintext_control_flag_is_refused",
        "tests/conformance/test_s390_image.py::test_a_header_that_was_tampered_with_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
    ),
    ("set_params", 6): (
        "tests/conformance/test_s390_image.py::test_a_header_without_key_slots_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("set_params", 7): (
        "tests/conformance/test_s390_image.py::test_a_length_that_is_not_the_headers_own_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("set_params", 8): (
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("set_params", 9): (
        "tests/conformance/test_s390_image.py::test_a_header_that_was_tampered_with_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("set_params", 10): (
        "tests/conformance/test_s390_image.py::test_an_image_for_another_machine_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("set_params", 11): (
        "tests/conformance/test_s390_image.py::test_a_header_that_was_tampered_with_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("set_params", 12): (
        "tests/conformance/test_s390_image.py::test_a_header_that_was_tampered_with_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_the_header_is_named_by_set_params",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("set_params", 13): (
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("share", 0): ("tests/conformance/test_s390_pages.py::test_a_guest_shares_its_own_memory_only",),
    ("unpack", 0): (
        "tests/conformance/test_s390_image.py::test_unpack_wants_parameters_first",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("unpack", 1): (
        "tests/conformance/test_s390_image.py::test_unpack_behind_the_guests_storage_is_refused",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_an_address_is_named_by_unpack_or_verify",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
    ),
    ("unpack", 2): (
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_an_address_is_named_by_unpack_or_verify",
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("unpack", 3): (
        "tests/conformance/test_s390_image.py::test_unpack_of_a_page_that_is_not_mapped_can_be_repeated",
        "tests/conformance/test_s390_image.py::test_unpack_of_a_page_that_is_not_writable_can_be_repeated",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("unpack", 4): (
        "tests/conformance/test_s390_image.py::test_unpack_into_a_donated_page_is_refused",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("unpack", 5): (
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_an_address_is_named_by_unpack_or_verify",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("unpack", 6): ("tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",),
    ("unpin", 0): (
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("unpin", 1): (
        "tests/conformance/test_s390_order_of_checks.py::test_of_two_things_wrong_the_first_is_named",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("unpin", 2): ("tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",),
    ("unpin", 3): ("tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",),
    ("unshare", 0): ("tests/conformance/test_s390_pages.py::test_a_guest_shares_its_own_memory_only",),
    ("unshare_all", 0): (
        "tests/conformance/test_s390_pages.py::test_unshare_all_wants_every_cpu_stopped",
        "tests/conformance/test_s390_entry.py::test_the_reset_chain_has_an_order",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
    ),
    ("verify", 0): (
        "tests/conformance/test_s390_image.py::test_verify_wants_parameters_first",
        "tests/conformance/test_s390_order_of_checks.py::test_one_thing_wrong_is_named",
        "tests/conformance/test_s390_same_at_every_depth.py::test_the_same_requests_get_the_same_answers_at_every_depth",
    ),
    ("verify", 1): (
        "tests/conformance/test_s390_image.py::test_a_missing_page_is_found",
        "tests/conformance/test_s390_image.py::test_an_additional_page_is_found",
        "tests/conformance/test_s390_image.py::test_a_guest_that_is_not_verified_does_not_start",
    ),
    ("verify", 2): (
        "tests/conformance/test_s390_image.py::test_a_wrong_address_is_found",
        "tests/conformance/test_s390_image.py::test_pages_in_another_order_are_found",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_an_address_is_named_by_unpack_or_verify",
    ),
    ("verify", 3): (
        "tests/conformance/test_s390_image.py::test_a_modified_page_is_found",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_a_page_is_named_by_verify",
        "tests/conformance/test_s390_order_of_checks.py::test_verify_names_the_first_thing_wrong_with_an_image",
    ),
    ("verify", 4): (
        "tests/conformance/test_s390_image.py::test_a_wrong_tweak_is_found",
        "tests/conformance/test_s390_image_flips.py::test_a_bit_of_a_tweak_is_named_by_verify",
        "tests/conformance/test_s390_order_of_checks.py::test_verify_names_the_first_thing_wrong_with_an_image",
    ),
}
# code of a check that every call makes -> tests
GENERAL_COVERED: dict[int, tuple[str, ...]] = {
    0x0002: (
        "tests/conformance/test_s390_attestation.py::test_a_host_cannot_ask",
        "tests/conformance/test_s390_secrets.py::test_the_guest_of_the_talks_firmware_has_none",
        "tests/conformance/test_s390_keyboard.py::test_counts_name_what_was_issued_and_received",
    ),
    0x0003: (
        "tests/conformance/test_s390_dump.py::test_a_reset_of_the_host_ends_a_dump",
        "tests/conformance/test_s390_query_init.py::test_a_killed_host_comes_back_empty",
        "tests/conformance/test_s390_siblings.py::test_siblings_have_an_ultravisor_of_their_own",
    ),
    0x0005: (
        "tests/conformance/test_s390_destroy_fast.py::test_its_block_is_one_doubleword_longer",
        "tests/conformance/test_s390_uvc_matrix.py::test_the_length_of_init_is_checked_before_the_ultravisor_is_initialised",
        "tests/conformance/test_s390_park.py::test_a_call_that_ends_before_its_park_point_answers_at_once",
    ),
    0x0020: (
        "tests/conformance/test_s390_configuration.py::test_a_destroyed_configuration_gives_its_pages_back_as_zeroes",
        "tests/conformance/test_s390_destroy_fast.py::test_another_hosts_guest_is_unknown",
        "tests/conformance/test_s390_dump.py::test_destroying_ends_a_dump",
    ),
    0x0021: (
        "tests/conformance/test_s390_configuration.py::test_a_destroyed_cpu_gives_its_page_back_as_zeroes",
        "tests/conformance/test_s390_query_init.py::test_a_reset_ends_every_secure_entity",
        "tests/conformance/test_s390_same_at_every_depth.py::test_two_hosts_get_the_same_answers_at_every_depth",
    ),
}
